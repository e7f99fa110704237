//! Comparison of a run with an earlier run.
//!
//! Invariant: figures with overlapping ranges count as unchanged.

use crate::{
    measure::Better,
    proxy::label,
    results::{CaseResults, FigureResults, Results},
    table::{empty, number},
};

/// Reports the differences as text.
pub(crate) fn report(old: &Results, new: &Results) -> String {
    let mut text = String::from("\nChanges:\n");
    if old.machine != new.machine {
        text += "  different machine: the figures are not comparable\n";
    }
    for info in &new.proxies {
        let before = old.proxies.iter().find(|other| other.proxy == info.proxy);
        if let Some(before) = before.filter(|before| before.what != info.what) {
            text += &format!("  {}: {} -> {}\n", label(&info.proxy), before.what, info.what);
        }
    }
    let mut table = empty();
    table.set_header(["case", "proxy", "figure", "old", "new", "ratio", ""]);
    let mut unchanged = 0;
    for case in &new.cases {
        for (proxy, figure) in figures(case) {
            let Some(before) = find(old, &case.id, proxy, &figure.name) else { continue };
            if before.summary.overlaps(&figure.summary) {
                unchanged += 1;
                continue;
            }
            let ratio = figure.summary.ratio_to(&before.summary);
            let ratio = ratio.map_or("–".into(), |ratio| format!("×{ratio:.2}"));
            let more = figure.summary.median > before.summary.median;
            let good = more == (figure.better == Better::Higher);
            let [old, new] = [before, figure].map(|figure| number(figure.summary.median));
            let verdict = if good { "better" } else { "worse" };
            table.add_row([&case.id, &label(proxy), &figure.name, &old, &new, &ratio, verdict]);
        }
    }
    if !table.is_empty() {
        text += &format!("{table}\n");
    }
    text + &format!("{unchanged} figures unchanged: their ranges overlap\n")
}

fn figures(case: &CaseResults) -> impl Iterator<Item = (&str, &FigureResults)> {
    case.rows.iter().flat_map(|row| row.figures.iter().map(|figure| (row.proxy.as_str(), figure)))
}

fn find<'a>(results: &'a Results, id: &str, proxy: &str, name: &str) -> Option<&'a FigureResults> {
    let case = results.cases.iter().find(|case| case.id == id)?;
    case.rows.iter().find(|row| row.proxy == proxy)?.figure(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probe::machine::Machine,
        results::{FORMAT, ProxyResults},
        statistics::Summary,
    };

    fn results(samples: &[f64]) -> Results {
        let figure = FigureResults {
            name: "p99 µs".into(),
            better: Better::Lower,
            summary: Summary::of(samples).unwrap(),
            ratio_to_direct: None,
        };
        let row = ProxyResults { proxy: "nginx".into(), figures: vec![figure], remarks: vec![] };
        Results {
            format: FORMAT,
            unix_time: 0,
            command: vec![],
            machine: Machine {
                kernel: "6".into(),
                cpu: "x".into(),
                cpus: 2,
                memory: 1,
                descriptors: 1,
            },
            secs: 1,
            rounds: 1,
            interrupted: false,
            proxies: vec![],
            left_out: vec![],
            cases: vec![CaseResults {
                scenario: "rr".into(),
                id: "rr-64-1".into(),
                title: String::new(),
                rows: vec![row],
            }],
        }
    }

    #[test]
    fn a_figure_outside_the_old_range_is_reported_as_better_or_worse() {
        let text = report(&results(&[10.0, 11.0]), &results(&[20.0, 22.0]));
        assert!(text.contains("×2.00") && text.contains("worse"), "{text}");
        assert!(text.contains("0 figures"), "{text}");
    }

    #[test]
    fn overlapping_ranges_are_only_counted() {
        let text = report(&results(&[10.0, 21.0]), &results(&[20.0, 22.0]));
        assert!(!text.contains("rr-64-1") && text.contains("1 figures"), "{text}");
    }
}
