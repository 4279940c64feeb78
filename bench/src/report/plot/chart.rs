//! The two charts under each other, with one legend at their side.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::PlotError;
use super::curves::{Curve, MAX_CURVES, curves};
use crate::report::model::RunReport;
use crate::report::number;

const WIDTH: u32 = 1080;
const HEIGHT: u32 = 860;
const TITLE_HEIGHT: u32 = 46;
const LEGEND_WIDTH: u32 = 220;

/// Colours that people with any colour vision tell apart (Okabe and Ito's), darkened where thin lines need it.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 80, 40),
    RGBColor(90, 90, 90),
];

const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(226, 229, 233);
const FAINT_GRID: RGBColor = RGBColor(243, 244, 246);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Draws everything.
pub fn svg(run: &RunReport) -> Result<String, PlotError> {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
    draw(&root, run).map_err(|error| PlotError::Draw { reason: error.to_string() })?;
    drop(root);
    Ok(text)
}

fn draw<'a>(root: &Area<'a>, run: &RunReport) -> Drawn<'a> {
    let all = curves(run);
    let shown = &all[..all.len().min(MAX_CURVES)];
    root.fill(&WHITE)?;
    let (title, below) = root.split_vertically(TITLE_HEIGHT);
    let names: Vec<&str> = run.jobs.iter().map(|job| job.name.as_str()).collect();
    let mut heading = names.join(", ");
    if heading.chars().count() > 70 {
        heading = format!("{} jobs", names.len());
    }
    title.draw_text(
        &format!("{heading}  \u{2013}  {}  \u{2013}  {}", run.version, run.time_text()),
        &("sans-serif", 18, FontStyle::Bold).into_font().color(&INK),
        (20, 18),
    )?;
    let (charts, side) = below.split_horizontally(WIDTH - LEGEND_WIDTH);
    let (upper, lower) = charts.split_vertically((HEIGHT - TITLE_HEIGHT) / 2);
    draw_latency(&upper, shown)?;
    draw_iops(&lower, shown)?;
    draw_legend(&side, shown, all.len() - shown.len())?;
    root.present()
}

fn color(index: usize) -> RGBColor {
    COLORS[index % COLORS.len()]
}

/// Curves past the number of colours are dashed.
fn is_dashed(index: usize) -> bool {
    index >= COLORS.len()
}

fn draw_latency<'a>(area: &Area<'a>, curves: &[Curve]) -> Drawn<'a> {
    let points = || curves.iter().flat_map(|curve| &curve.latency);
    let last = points().map(|point| point.0).fold(2.0, f64::max);
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points().map(|point| point.1).fold(0.0, f64::max);
    if high == 0.0 {
        return draw_nothing(area, "Latency by percentile", "no latencies were recorded");
    }
    let mut chart = ChartBuilder::on(area)
        .caption("Latency by percentile", ("sans-serif", 16).into_font().color(&INK))
        .margin_left(14)
        .margin_right(16)
        .margin_bottom(8)
        .x_label_area_size(46)
        .y_label_area_size(76)
        .build_cartesian_2d(Nines(last), LogNs { low: low * 0.8, high: high * 1.25 })?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(FAINT_GRID)
        .axis_style(INK)
        .x_labels(9)
        .y_labels(12)
        .x_desc("share of requests that took no longer")
        .y_desc("latency")
        .label_style(("sans-serif", 12).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    for (index, curve) in curves.iter().enumerate() {
        let style = color(index).stroke_width(2);
        if is_dashed(index) {
            chart.draw_series(DashedLineSeries::new(curve.latency.iter().copied(), 6, 4, style))?;
        } else {
            chart.draw_series(LineSeries::new(curve.latency.iter().copied(), style))?;
        }
    }
    Ok(())
}

fn draw_iops<'a>(area: &Area<'a>, curves: &[Curve]) -> Drawn<'a> {
    let points = || curves.iter().flat_map(|curve| &curve.iops);
    let end = points().map(|point| point.0).fold(0.0, f64::max);
    let high = points().map(|point| point.1).fold(0.0, f64::max);
    if end == 0.0 {
        return draw_nothing(area, "IOPS over time", "the run was too short for a sample");
    }
    let mut chart = ChartBuilder::on(area)
        .caption("IOPS over time", ("sans-serif", 16).into_font().color(&INK))
        .margin_left(14)
        .margin_right(16)
        .margin_bottom(8)
        .x_label_area_size(46)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..end, 0.0..(high * 1.08).max(1.0))?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(FAINT_GRID)
        .axis_style(INK)
        .x_labels(10)
        .y_labels(8)
        .x_max_light_lines(2)
        .y_max_light_lines(2)
        .x_label_formatter(&|seconds| seconds_text(*seconds))
        .y_label_formatter(&|iops| number::count(*iops as u64))
        .x_desc("time (s)")
        .y_desc("requests per second")
        .label_style(("sans-serif", 12).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    for (index, curve) in curves.iter().enumerate() {
        let style = color(index).stroke_width(2);
        if is_dashed(index) {
            chart.draw_series(DashedLineSeries::new(curve.iops.iter().copied(), 6, 4, style))?;
        } else {
            chart.draw_series(LineSeries::new(curve.iops.iter().copied(), style))?;
        }
        // A run of one window would otherwise show nothing.
        if let [point] = curve.iops.as_slice() {
            chart.draw_series([Circle::new(*point, 3, color(index).filled())])?;
        }
    }
    Ok(())
}

/// In the place of a chart that has no points.
fn draw_nothing<'a>(area: &Area<'a>, caption: &str, reason: &str) -> Drawn<'a> {
    let style = ("sans-serif", 14).into_font().color(&INK);
    area.draw_text(&format!("{caption}: {reason}"), &style, (90, 60))
}

fn draw_legend<'a>(area: &Area<'a>, curves: &[Curve], left_out: usize) -> Drawn<'a> {
    let style = ("sans-serif", 13).into_font().color(&INK);
    for (index, curve) in curves.iter().enumerate() {
        let y = 44 + index as i32 * 22;
        let strokes: &[(i32, i32)] = if is_dashed(index) { &[(0, 9), (15, 24)] } else { &[(0, 24)] };
        for &(from, to) in strokes {
            area.draw(&PathElement::new([(from, y), (to, y)], color(index).stroke_width(3)))?;
        }
        area.draw_text(&curve.name, &style, (32, y - 5))?;
    }
    if left_out > 0 {
        let y = 44 + curves.len() as i32 * 22;
        area.draw_text(&format!("and {left_out} more, not drawn"), &style, (32, y - 5))?;
    }
    Ok(())
}

fn seconds_text(seconds: f64) -> String {
    if seconds.fract().abs() < 1e-6 { format!("{seconds:.0}") } else { format!("{seconds:.1}") }
}

/// Axis of nines: 0 is the fastest request, 1 is 90 %, 2 is 99 %, and so on up to the field's value.
struct Nines(f64);

impl Ranged for Nines {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (value / self.0 * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Whole nines, and halves of what each leaves: 50 %, 95 %, 99.5 %, ... as marks where there is room for them.
        let with_halves = hint.weight().allow_light_points() || self.0 < 5.5;
        let marks = [0.0, 2f64.log10()];
        let halves = if with_halves { &marks[..] } else { &marks[..1] };
        let all = (0..=self.0.floor() as u32)
            .flat_map(|nines| halves.iter().map(move |half| f64::from(nines) + half));
        all.filter(|point| *point <= self.0).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.0
    }
}

impl ValueFormatter<f64> for Nines {
    fn format_ext(&self, value: &f64) -> String {
        percent_text(*value)
    }
}

/// 0 %, 50 %, 90 %, 95 %, 99 %, 99.5 %, 99.9 %, ...
fn percent_text(nines: f64) -> String {
    let decimals = (nines.ceil() as usize).saturating_sub(2).max(usize::from(nines > 2.0));
    format!("{:.decimals$}%", 100.0 * (1.0 - 10f64.powf(-nines)))
}

/// Logarithmic axis of nanoseconds with marks at 1, 2 and 5.
struct LogNs {
    low: f64,
    high: f64,
}

impl Ranged for LogNs {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[u32] = match (hint.weight().allow_light_points(), decades < 4.5) {
            (true, _) => &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            (false, true) => &[1, 2, 5],
            (false, false) => &[1],
        };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let all = (first..=last)
            .flat_map(|power| steps.iter().map(move |&step| f64::from(step) * 10f64.powi(power)));
        all.filter(|point| (self.low..=self.high).contains(point)).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for LogNs {
    fn format_ext(&self, value: &f64) -> String {
        super::html::duration(*value)
    }
}
