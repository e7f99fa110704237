//! The layout of a chart.
//!
//! Invariant: the layout draws on any drawing area and accesses no file.

use plotters::{
    backend::DrawingBackend,
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind},
    element::{PathElement, Rectangle, Text},
    style::{
        Color as _, FontStyle, IntoFont as _, RGBColor, TextStyle, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{
    proxy::{DIRECT, label},
    results::{CaseResults, FigureResults, Results},
    table::number,
};

const WIDTH: i32 = 960;
const MARGIN: i32 = 20;
/// The left edge of the bars and the length of the longest bar. The value is printed beside the
/// bar.
const BARS: i32 = 170;
const LONGEST: f64 = 500.0;
const ROW: i32 = 24;
const HEADING: i32 = 34;

const INK: RGBColor = RGBColor(32, 33, 36);
const FAINT: RGBColor = RGBColor(110, 114, 120);
const DIRECT_COLOUR: RGBColor = RGBColor(190, 194, 200);
const BALANCE_COLOUR: RGBColor = RGBColor(33, 105, 190);
const OTHER_COLOUR: RGBColor = RGBColor(222, 145, 60);

/// A chart.
pub(super) struct Chart<'a> {
    machine: String,
    groups: Vec<Group<'a>>,
}

struct Group<'a> {
    heading: String,
    bars: Vec<(&'a str, &'a FigureResults)>,
}

impl<'a> Chart<'a> {
    /// Makes a chart of the figure that `is_wanted` selects in each case.
    pub(super) fn of(
        results: &Results,
        cases: &[&'a CaseResults],
        is_wanted: fn(&CaseResults, &str) -> bool,
    ) -> Self {
        let group = |case: &&'a CaseResults| {
            let figure = |row: &'a crate::results::ProxyResults| {
                let figure = row.figures.iter().find(|figure| is_wanted(case, &figure.name))?;
                Some((row.proxy.as_str(), figure))
            };
            let bars: Vec<_> = case.rows.iter().filter_map(figure).collect();
            let name = &bars.first()?.1.name;
            Some(Group { heading: format!("{}: {name}", case.title), bars })
        };
        let machine = format!(
            "{}, {} processors, Linux {}; median and range of {} rounds of {} s",
            results.machine.cpu,
            results.machine.cpus,
            results.machine.kernel,
            results.rounds,
            results.secs
        );
        Self { machine, groups: cases.iter().filter_map(group).collect() }
    }

    /// Returns true if the chart has no bars.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns width and height in pixels.
    pub(super) fn size(&self) -> (u32, u32) {
        let rows: usize = self.groups.iter().map(|group| group.bars.len()).sum();
        let height = 3 * MARGIN + HEADING * self.groups.len() as i32 + ROW * rows as i32;
        (WIDTH.unsigned_abs(), height.unsigned_abs())
    }

    /// Draws the chart.
    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let mut y = MARGIN;
        for group in &self.groups {
            let at = (MARGIN, y + HEADING / 2);
            area.draw(&Text::new(group.heading.clone(), at, text(&INK, true, HPos::Left)))?;
            y += HEADING;
            let most = group.bars.iter().map(|(_, figure)| figure.summary.max).fold(0.0, f64::max);
            for (proxy, figure) in &group.bars {
                draw_bar(area, y, proxy, figure, most)?;
                y += ROW;
            }
        }
        let at = (MARGIN, y + MARGIN);
        area.draw(&Text::new(self.machine.clone(), at, text(&FAINT, false, HPos::Left)))
    }
}

fn draw_bar<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    y: i32,
    proxy: &str,
    figure: &FigureResults,
    most: f64,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let middle = y + ROW / 2;
    let end = |value: f64| BARS + scaled(value, most);
    let summary = &figure.summary;
    let name = text(&INK, false, HPos::Right);
    area.draw(&Text::new(label(proxy), (BARS - 10, middle), name))?;
    let bar = [(BARS, y + 4), (end(summary.median), y + ROW - 4)];
    area.draw(&Rectangle::new(bar, colour(proxy).filled()))?;
    let (min, max) = (end(summary.min), end(summary.max));
    for line in [
        vec![(min, middle), (max, middle)],
        vec![(min, middle - 4), (min, middle + 4)],
        vec![(max, middle - 4), (max, middle + 4)],
    ] {
        area.draw(&PathElement::new(line, INK.stroke_width(1)))?;
    }
    let ratio = match figure.ratio_to_direct {
        Some(ratio) if proxy != DIRECT => format!("  ×{ratio:.2} direct"),
        _ => String::new(),
    };
    let value = format!("{}{ratio}", number(summary.median));
    let at = (max.max(end(summary.median)) + 10, middle);
    area.draw(&Text::new(value, at, text(&INK, false, HPos::Left)))
}

/// Returns the length of a bar. A negative value has length 0.
fn scaled(value: f64, most: f64) -> i32 {
    if most > 0.0 { (value.max(0.0) / most * LONGEST).round() as i32 } else { 0 }
}

fn colour(proxy: &str) -> RGBColor {
    match proxy {
        DIRECT => DIRECT_COLOUR,
        _ if proxy.starts_with("balance") => BALANCE_COLOUR,
        _ => OTHER_COLOUR,
    }
}

fn text(colour: &'static RGBColor, bold: bool, side: HPos) -> TextStyle<'static> {
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    let font = ("sans-serif", 15).into_font().style(style);
    TextStyle::from(font).color(colour).pos(Pos::new(side, VPos::Center))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_start_at_zero_and_end_at_the_longest() {
        assert_eq!(scaled(0.0, 5.0), 0);
        assert_eq!(scaled(-1.0, 5.0), 0);
        assert_eq!(scaled(2.5, 5.0), 250);
        assert_eq!(scaled(5.0, 5.0), 500);
        assert_eq!(scaled(0.0, 0.0), 0);
    }
}
