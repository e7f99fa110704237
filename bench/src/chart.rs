//! Charts of the results: one bar for each proxy, one group of bars for each case, each group with
//! its own scale.
//!
//! Each scenario gets two charts, one of the main figure and one of CPU time, as SVG and as PNG.
//!
//! Invariant: bars start at zero, and the error bar reaches from the smallest to the largest
//! sample.

mod layout;
mod raster;

use std::{convert::Infallible, fs, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    backend::{DrawingBackend, SVGBackend},
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
};

use self::{layout::Chart, raster::Raster};
use crate::results::{CaseResults, Results};

/// Draws all charts into a directory and returns their number.
pub(crate) fn draw_all(results: &Results, directory: &Path) -> Result<usize> {
    let mut scenarios: Vec<&str> = Vec::new();
    for case in &results.cases {
        if !scenarios.contains(&case.scenario.as_str()) {
            scenarios.push(&case.scenario);
        }
    }
    let mut drawn = 0;
    for scenario in scenarios {
        let cases: Vec<&CaseResults> =
            results.cases.iter().filter(|case| case.scenario == scenario).collect();
        for (name, is_wanted) in [
            (scenario.to_owned(), is_main as fn(&CaseResults, &str) -> bool),
            (format!("{scenario}-cpu"), is_cpu),
        ] {
            let chart = Chart::of(results, &cases, is_wanted);
            if !chart.is_empty() {
                draw(&chart, directory, &name)
                    .with_context(|| format!("cannot draw the chart {name}"))?;
                drawn += 1;
            }
        }
    }
    Ok(drawn)
}

fn is_main(case: &CaseResults, figure: &str) -> bool {
    case.figures().first() == Some(&figure)
}

fn is_cpu(case: &CaseResults, figure: &str) -> bool {
    case.figures().into_iter().find(|name| name.starts_with("CPU ")) == Some(figure)
}

fn draw(chart: &Chart, directory: &Path, name: &str) -> Result<()> {
    let size = chart.size();
    let mut svg = String::new();
    draw_on(&SVGBackend::with_string(&mut svg, size).into_drawing_area(), chart)?;
    let file = directory.join(format!("{name}.svg"));
    fs::write(&file, svg).with_context(|| format!("cannot write {}", file.display()))?;

    let mut raster = Raster::new(size);
    draw_on(&(&mut raster).into_drawing_area(), chart)?;
    raster.save(&directory.join(format!("{name}.png")))
}

fn draw_on<B: DrawingBackend>(area: &DrawingArea<B, Shift>, chart: &Chart) -> Result<()> {
    let drawn = chart.draw(area).and_then(|()| area.present());
    drawn.map_err(|error: DrawingAreaErrorKind<B::ErrorType>| anyhow!("{error}"))
}

/// The error type of a drawing operation that cannot fail.
type Never = Infallible;
