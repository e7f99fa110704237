//! The stored results of a run, results.json.
//!
//! Invariant: the file contains everything that is printed or drawn.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{measure::Better, probe::machine::Machine, statistics::Summary};

/// The version of the file format. Other versions cannot be read.
pub(crate) const FORMAT: u32 = 1;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The format version, [`FORMAT`].
    pub(crate) format: u32,
    /// Start of the run, in seconds since 1970.
    pub(crate) unix_time: u64,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// The machine.
    pub(crate) machine: Machine,
    /// Seconds of a measurement.
    pub(crate) secs: u64,
    /// Number of rounds.
    pub(crate) rounds: u32,
    /// Whether a signal ended the run early.
    pub(crate) interrupted: bool,
    /// The proxies that were measured.
    #[serde(alias = "peers")]
    pub(crate) proxies: Vec<ProxyInfo>,
    /// The proxies that could not be measured, with the reasons.
    pub(crate) left_out: Vec<ProxyInfo>,
    /// The results of the cases.
    pub(crate) cases: Vec<CaseResults>,
}

/// A proxy with its version, or with the reason why it was not measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProxyInfo {
    /// The name of the proxy.
    #[serde(alias = "peer")]
    pub(crate) proxy: String,
    /// The version or the reason.
    pub(crate) what: String,
}

/// The results of a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CaseResults {
    /// The scenario of the case.
    pub(crate) scenario: String,
    /// The id of the case.
    pub(crate) id: String,
    /// The title for tables and charts.
    pub(crate) title: String,
    /// The results of each proxy.
    pub(crate) rows: Vec<ProxyResults>,
}

/// The results of a proxy in a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProxyResults {
    /// The name of the proxy.
    #[serde(alias = "peer")]
    pub(crate) proxy: String,
    /// The figures; none if every round failed.
    pub(crate) figures: Vec<FigureResults>,
    /// Problems, with the round.
    pub(crate) remarks: Vec<String>,
}

/// All samples of a figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FigureResults {
    /// The name with the unit.
    pub(crate) name: String,
    /// Which direction is better.
    pub(crate) better: Better,
    /// The samples and their summary.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// The median divided by the median of `direct`.
    pub(crate) ratio_to_direct: Option<f64>,
}

impl ProxyResults {
    /// Returns the figure with this name.
    pub(crate) fn figure(&self, name: &str) -> Option<&FigureResults> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

impl CaseResults {
    /// Returns the names of all figures, in order.
    pub(crate) fn figures(&self) -> Vec<&str> {
        // A proxy may lack a figure that others have.
        let row = self.rows.iter().max_by_key(|row| row.figures.len());
        row.map_or_else(Vec::new, |row| row.figures.iter().map(|f| f.name.as_str()).collect())
    }
}

impl Results {
    /// Reads a file.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let results: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a results file", file.display()))?;
        ensure!(
            results.format == FORMAT,
            "{} has format {}, expected {FORMAT}",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_results_stay_readable() {
        for run in ["0.1.0", "splice"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(run);
            let results = Results::load(&file.join("results.json")).unwrap();
            assert!(results.cases.iter().any(|case| case.rows[0].proxy == "direct"), "{run}");
            assert!(results.proxies.iter().any(|info| info.proxy == "nginx"), "{run}");
        }
    }
}
