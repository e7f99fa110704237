//! Gathers the samples of a case, round after round, and sums them up.
//!
//! Invariant: samples keep the round they are from until pairs of them have been formed.

use crate::{
    measure::{Better, Measured, TOGETHER},
    peer::DIRECT,
    results::{CaseResults, FigureResults, Row},
    scenario::Case,
    statistics::Summary,
};

/// The samples of a case.
pub(crate) struct Gathered<'a> {
    case: &'a Case,
    peers: Vec<Samples>,
}

/// Each value with its round.
type Values = Vec<(u32, f64)>;

struct Samples {
    peer: String,
    figures: Vec<(String, Better, Values)>,
    remarks: Vec<String>,
}

impl<'a> Gathered<'a> {
    /// Nothing yet, of those peers.
    pub(crate) fn new<'p>(case: &'a Case, peers: impl Iterator<Item = &'p str>) -> Self {
        let samples = |peer: &str| Samples {
            peer: peer.to_owned(),
            figures: Vec::new(),
            remarks: Vec::new(),
        };
        Self { case, peers: peers.map(samples).collect() }
    }

    /// Adds what a round brought for the peer of that number.
    pub(crate) fn add(&mut self, peer: usize, round: u32, measured: anyhow::Result<Measured>) {
        let samples = &mut self.peers[peer];
        let Measured { figures, remarks } = measured.unwrap_or_else(|error| Measured {
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

    /// Sums up.
    pub(crate) fn finish(mut self) -> CaseResults {
        self.beyond_direct();
        let rows: Vec<Row> = self.peers.into_iter().map(Samples::finish).collect();
        let direct = rows.iter().find(|row| row.peer == DIRECT).cloned();
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

    /// Adds what memory a peer costs more than direct did in the same round.
    fn beyond_direct(&mut self) {
        let together = |samples: &Samples| {
            samples.figures.iter().find(|(name, ..)| name.starts_with(TOGETHER)).cloned()
        };
        let direct = self.peers.iter().find(|samples| samples.peer == DIRECT).and_then(together);
        let Some((name, better, direct)) = direct else { return };
        for samples in self.peers.iter_mut().filter(|samples| samples.peer != DIRECT) {
            let Some((_, _, values)) = together(samples) else { continue };
            let beyond = |(round, value): (u32, f64)| {
                let (_, direct) = direct.iter().find(|(other, _)| *other == round)?;
                Some((round, value - direct))
            };
            let values = values.into_iter().filter_map(beyond).collect();
            samples.figures.insert(0, (format!("{name} beyond direct"), better, values));
        }
    }
}

impl Samples {
    fn finish(self) -> Row {
        let figures = self.figures.into_iter().filter_map(|(name, better, values)| {
            let values: Vec<f64> = values.into_iter().map(|(_, value)| value).collect();
            let summary = Summary::of(&values)?;
            Some(FigureResults { name, better, summary, ratio_to_direct: None })
        });
        Row { peer: self.peer, figures: figures.collect(), remarks: self.remarks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Figure;

    fn measured(name: &str, value: f64) -> anyhow::Result<Measured> {
        let figures = vec![Figure { name: name.into(), better: Better::Lower, value }];
        Ok(Measured { figures, remarks: Vec::new() })
    }

    #[test]
    fn memory_is_told_beyond_direct_of_the_same_round() {
        let cases = crate::scenario::chosen(&["idle".into()], 9).unwrap();
        let mut gathered = Gathered::new(&cases[0], [DIRECT, "a"].into_iter());
        let name = format!("{TOGETHER} KiB");
        gathered.add(0, 1, measured(&name, 1.0));
        gathered.add(1, 1, Err(anyhow::anyhow!("broken")));
        gathered.add(0, 2, measured(&name, 2.0));
        gathered.add(1, 2, measured(&name, 6.0));
        let results = gathered.finish();
        let row = &results.rows[1];
        assert_eq!(row.figures[0].summary.samples, [4.0]);
        assert_eq!(row.figure(&name).unwrap().ratio_to_direct, Some(4.0));
        assert_eq!(row.remarks, ["round 1: failed: broken"]);
    }
}
