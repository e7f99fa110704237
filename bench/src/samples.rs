//! Collects the samples of a case from all rounds and summarises them.
//!
//! Invariant: each sample keeps its round until samples of the same round have been paired.

use crate::{
    measure::{Better, Measurement, PROXY_AND_KERNEL},
    proxy::DIRECT,
    results::{CaseResults, FigureResults, ProxyResults},
    scenario::Case,
    statistics::Summary,
};

/// The samples of a case.
pub(crate) struct CaseSamples<'a> {
    case: &'a Case,
    proxies: Vec<ProxySamples>,
}

/// Values with their rounds.
type Values = Vec<(u32, f64)>;

struct ProxySamples {
    proxy: String,
    figures: Vec<(String, Better, Values)>,
    remarks: Vec<String>,
}

impl<'a> CaseSamples<'a> {
    /// Starts without samples for these proxies.
    pub(crate) fn new<'p>(case: &'a Case, proxies: impl Iterator<Item = &'p str>) -> Self {
        let samples = |proxy: &str| ProxySamples {
            proxy: proxy.to_owned(),
            figures: Vec::new(),
            remarks: Vec::new(),
        };
        Self { case, proxies: proxies.map(samples).collect() }
    }

    /// Adds the result of a round for the proxy with this index.
    pub(crate) fn add(&mut self, proxy: usize, round: u32, measured: anyhow::Result<Measurement>) {
        let samples = &mut self.proxies[proxy];
        let Measurement { figures, remarks } = measured.unwrap_or_else(|error| Measurement {
            figures: Vec::new(),
            remarks: vec![format!("failed: {error:#}")],
        });
        samples.remarks.extend(remarks.into_iter().map(|what| format!("round {round}: {what}")));
        for figure in figures {
            let sample = (round, figure.value);
            match samples.figures.iter_mut().find(|(name, ..)| *name == figure.name) {
                Some((_, _, values)) => values.push(sample),
                None => samples.figures.push((figure.name, figure.better, vec![sample])),
            }
        }
    }

    /// Summarises the samples.
    pub(crate) fn finish(mut self) -> CaseResults {
        self.add_beyond_direct();
        let rows: Vec<ProxyResults> = self.proxies.into_iter().map(ProxySamples::finish).collect();
        let direct = rows.iter().find(|row| row.proxy == DIRECT).cloned();
        let ratio = |figure: &FigureResults| {
            let direct = direct.as_ref()?.figure(&figure.name)?;
            figure.summary.ratio_to(&direct.summary)
        };
        let mut rows = rows;
        for figure in rows.iter_mut().flat_map(|row| &mut row.figures) {
            figure.ratio_to_direct = ratio(figure);
        }
        let Case { scenario, id, title, .. } = self.case.clone();
        CaseResults { scenario: scenario.into(), id, title, rows }
    }

    /// Adds the memory that a proxy uses beyond what direct used in the same round.
    fn add_beyond_direct(&mut self) {
        let proxy_and_kernel = |samples: &ProxySamples| {
            samples.figures.iter().find(|(name, ..)| name.starts_with(PROXY_AND_KERNEL)).cloned()
        };
        let direct =
            self.proxies.iter().find(|samples| samples.proxy == DIRECT).and_then(proxy_and_kernel);
        let Some((name, better, direct)) = direct else { return };
        for samples in self.proxies.iter_mut().filter(|samples| samples.proxy != DIRECT) {
            let Some((_, _, values)) = proxy_and_kernel(samples) else { continue };
            let beyond = |(round, value): (u32, f64)| {
                let (_, direct) = direct.iter().find(|(other, _)| *other == round)?;
                Some((round, value - direct))
            };
            let values = values.into_iter().filter_map(beyond).collect();
            samples.figures.insert(0, (format!("{name} beyond direct"), better, values));
        }
    }
}

impl ProxySamples {
    fn finish(self) -> ProxyResults {
        let figures = self.figures.into_iter().filter_map(|(name, better, values)| {
            let values: Vec<f64> = values.into_iter().map(|(_, value)| value).collect();
            let summary = Summary::of(&values)?;
            Some(FigureResults { name, better, summary, ratio_to_direct: None })
        });
        ProxyResults { proxy: self.proxy, figures: figures.collect(), remarks: self.remarks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Figure;

    fn measured(name: &str, value: f64) -> anyhow::Result<Measurement> {
        let figures = vec![Figure { name: name.into(), better: Better::Lower, value }];
        Ok(Measurement { figures, remarks: Vec::new() })
    }

    #[test]
    fn memory_is_reported_beyond_direct_of_the_same_round() {
        let cases = crate::scenario::select(&["idle".into()], 9).unwrap();
        let mut samples = CaseSamples::new(&cases[0], [DIRECT, "a"].into_iter());
        let name = format!("{PROXY_AND_KERNEL} KiB");
        samples.add(0, 1, measured(&name, 1.0));
        samples.add(1, 1, Err(anyhow::anyhow!("broken")));
        samples.add(0, 2, measured(&name, 2.0));
        samples.add(1, 2, measured(&name, 6.0));
        let results = samples.finish();
        let row = &results.rows[1];
        assert_eq!(row.figures[0].summary.samples, [4.0]);
        assert_eq!(row.figure(&name).unwrap().ratio_to_direct, Some(4.0));
        assert_eq!(row.remarks, ["round 1: failed: broken"]);
    }
}
