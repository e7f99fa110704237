//! The results of a run, as they are stored: results.json.
//!
//! Invariant: whatever is printed or drawn is in here, so that a run can be looked at again.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{measure::Better, probe::machine::Machine, statistics::Summary};

/// The form of the file; another one cannot be compared.
pub(crate) const FORMAT: u32 = 1;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// When it began, in seconds since 1970.
    pub(crate) unix_time: u64,
    /// How the harness was called.
    pub(crate) command: Vec<String>,
    /// Where.
    pub(crate) machine: Machine,
    /// Seconds of a measurement.
    pub(crate) secs: u64,
    /// How often each was made.
    pub(crate) rounds: u32,
    /// True if it was ended before its time.
    pub(crate) interrupted: bool,
    /// Who was measured.
    #[serde(alias = "peers")]
    pub(crate) proxies: Vec<ProxyInfo>,
    /// Who was not, and why.
    pub(crate) left_out: Vec<ProxyInfo>,
    /// What was measured.
    pub(crate) cases: Vec<CaseResults>,
}

/// A proxy and something to know about it: its version, or why it is not there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProxyInfo {
    /// Its name.
    #[serde(alias = "peer")]
    pub(crate) proxy: String,
    /// What to know.
    pub(crate) what: String,
}

/// The results of a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CaseResults {
    /// What it is a case of.
    pub(crate) scenario: String,
    /// Its own name.
    pub(crate) id: String,
    /// For people.
    pub(crate) title: String,
    /// One for each proxy.
    pub(crate) rows: Vec<ProxyResults>,
}

/// The results of a proxy in a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProxyResults {
    /// Its name.
    #[serde(alias = "peer")]
    pub(crate) proxy: String,
    /// None if no round succeeded.
    pub(crate) figures: Vec<FigureResults>,
    /// What went wrong, with the round.
    pub(crate) remarks: Vec<String>,
}

/// All samples of a figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FigureResults {
    /// What it is, with its unit.
    pub(crate) name: String,
    /// Which way it is good.
    pub(crate) better: Better,
    /// What was measured.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// How many times the median of direct this median is.
    pub(crate) ratio_to_direct: Option<f64>,
}

impl ProxyResults {
    /// The figure of that name.
    pub(crate) fn figure(&self, name: &str) -> Option<&FigureResults> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

impl CaseResults {
    /// The names of all figures, in order.
    pub(crate) fn figures(&self) -> Vec<&str> {
        // A proxy may lack one that others have.
        let row = self.rows.iter().max_by_key(|row| row.figures.len());
        row.map_or_else(Vec::new, |row| row.figures.iter().map(|f| f.name.as_str()).collect())
    }
}

impl Results {
    /// Reads a file.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let results: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no results", file.display()))?;
        ensure!(
            results.format == FORMAT,
            "{} has the form {}, this is {FORMAT}",
            file.display(),
            results.format
        );
        Ok(results)
    }

    /// Writes a file.
    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("cannot encode the results")?;
        text.push('\n');
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}
