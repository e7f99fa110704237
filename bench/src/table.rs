//! Results as tables for a terminal.
//!
//! Invariant: every figure is shown with its range.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    proxy::label,
    results::{CaseResults, FigureResults, Results},
};

/// Maximum width of a line in a column heading.
const COLUMN: usize = 14;

/// Describes the machine and the proxies.
pub(crate) fn header(results: &Results) -> String {
    let Results { machine, proxies, left_out, secs, rounds, .. } = results;
    let mut text = format!(
        "{}, {} processors, {} MiB, Linux {}\n\
         median of {rounds} rounds of {secs} s (least–most) ×ratio to direct; \
         CPU time is the whole system's\n",
        machine.cpu, machine.cpus, machine.memory, machine.kernel
    );
    for info in proxies {
        text += &format!("  {:<19} {}\n", label(&info.proxy), info.what);
    }
    for info in left_out {
        text += &format!("  {:<19} left out: {}\n", label(&info.proxy), info.what);
    }
    if results.interrupted {
        text += "interrupted: the remaining cases were not measured\n";
    }
    text
}

/// Shows a case: a row for each proxy and a column for each figure.
pub(crate) fn case(case: &CaseResults) -> String {
    // The column of errors is shown only if there are errors.
    let is_shown = |name: &&str| {
        *name != "errors"
            || case.rows.iter().filter_map(|row| row.figure(name)).any(|f| f.summary.max > 0.0)
    };
    let names: Vec<&str> = case.figures().into_iter().filter(is_shown).collect();
    let mut table = empty();
    table.set_header([case.id.clone()].into_iter().chain(names.iter().map(|name| wrapped(name))));
    for row in &case.rows {
        let cells = names.iter().map(|name| row.figure(name).map_or("–".into(), cell));
        table.add_row([label(&row.proxy)].into_iter().chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{}\n{table}\n", case.title);
    for row in &case.rows {
        for remark in &row.remarks {
            text += &format!("  {}: {remark}\n", label(&row.proxy));
        }
    }
    text
}

/// Makes a table without rows.
pub(crate) fn empty() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn cell(figure: &FigureResults) -> String {
    let summary = &figure.summary;
    let ratio = figure.ratio_to_direct.map_or(String::new(), |ratio| format!(" ×{ratio:.2}"));
    let (min, max) = (number(summary.min), number(summary.max));
    format!("{}{ratio}\n({min}–{max})", number(summary.median))
}

/// Wraps a name into short lines.
fn wrapped(name: &str) -> String {
    let mut text = String::new();
    let mut length = 0;
    for word in name.split(' ') {
        if length > 0 && length + 1 + word.chars().count() > COLUMN {
            text.push('\n');
            length = 0;
        } else if length > 0 {
            text.push(' ');
            length += 1;
        }
        text += word;
        length += word.chars().count();
    }
    text
}

/// Formats a number with at least three significant digits.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 99.95 || size == 0.0 {
        grouped(value.round())
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.9995 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// Formats a whole number with its thousands separated.
fn grouped(whole: f64) -> String {
    let digits = format!("{:.0}", whole.abs());
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    if whole < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measure::Better, results::ProxyResults, statistics::Summary};

    #[test]
    fn numbers_have_at_least_three_digits() {
        let numbers = [0.0, 0.1234, 1.234, 12.34, 99.97, 1234.5, -1_234_567.0].map(number);
        assert_eq!(numbers, ["0", "0.123", "1.23", "12.3", "100", "1 235", "-1 234 567"]);
    }

    #[test]
    fn a_long_name_is_wrapped() {
        assert_eq!(
            wrapped("proxy + kernel KiB beyond direct"),
            "proxy + kernel\nKiB beyond\ndirect"
        );
        assert_eq!(wrapped("p50 µs"), "p50 µs");
    }

    #[test]
    fn a_case_shows_proxies_ranges_and_missing_figures() {
        let summary = Summary::of(&[1.0, 3.0, 2.0]).unwrap();
        let figure = FigureResults {
            name: "Gb/s".into(),
            better: Better::Higher,
            summary,
            ratio_to_direct: Some(0.5),
        };
        let row =
            |proxy: &str, figures, remarks| ProxyResults { proxy: proxy.into(), figures, remarks };
        let rows =
            vec![row("a", vec![figure], vec![]), row("b", vec![], vec!["round 1: no".into()])];
        let (scenario, id, title) = ("bulk".into(), "bulk-1-up".into(), "1 stream up".into());
        let text = case(&CaseResults { scenario, id, title, rows });
        for part in ["1 stream up", "2.00 ×0.50", "(1.00–3.00)", "–", "b: round 1: no"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
