//! Pictures as SVG: curves of training, confusion matrices, reliability diagrams, rate against distortion.
//!
//! The colours are those of a light page; a style sheet within each picture turns them for a dark one.

use std::fmt::Write as _;
use std::ops::Range;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What a drawing may fail with; on memory, it does not.
type DrawResult = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(32, 33, 36);
const FAINT: RGBColor = RGBColor(222, 224, 228);
/// Distinguishable for colour-blind readers (Okabe and Ito, "Color Universal Design", 2008).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(120, 94, 10),
];
/// Each colour on a light page, and what it becomes on a dark one.
const DARK: [(RGBColor, RGBColor); 8] = [
    (PAPER, RGBColor(24, 26, 30)),
    (INK, RGBColor(228, 230, 234)),
    (FAINT, RGBColor(62, 66, 73)),
    (COLOURS[0], RGBColor(86, 180, 233)),
    (COLOURS[1], RGBColor(240, 140, 60)),
    (COLOURS[2], RGBColor(60, 200, 155)),
    (COLOURS[3], RGBColor(224, 156, 194)),
    (COLOURS[4], RGBColor(222, 190, 80)),
];

/// Shades of a heat map from 0 to 1: of the first colour over the paper.
const N_SHADES: usize = 16;

/// A named line or set of points.
#[derive(Debug, Clone)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// x and y.
    pub points: Vec<(f64, f64)>,
}

/// Some series over the same axes.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Above the chart.
    pub title: String,
    /// Below the x axis.
    pub x: String,
    /// Beside the y axis.
    pub y: String,
    /// Whether x runs in powers of ten.
    pub is_logarithmic: bool,
    /// Lines through their points.
    pub series: Vec<Series>,
}

/// Charts beside each other.
pub fn charts(charts: &[Chart]) -> String {
    const WIDTH: u32 = 460;
    draw(
        (WIDTH * charts.len().max(1) as u32, 340),
        |area| -> DrawResult {
            for (area, chart) in area.split_evenly((1, charts.len())).iter().zip(charts) {
                let x = range(
                    chart.series.iter().flat_map(|s| &s.points).map(|p| p.0),
                    0.0,
                );
                let y = range(
                    chart.series.iter().flat_map(|s| &s.points).map(|p| p.1),
                    0.06,
                );
                match chart.is_logarithmic {
                    true => {
                        let x = (x.start / 1.3..x.end * 1.3).log_scale();
                        lines(area, chart, x, y, &|x| format!("{x:e}"))?;
                    }
                    false => lines(area, chart, x, y, &SHORT)?,
                }
            }
            Ok(())
        },
    )
}

/// How often each class (row) was taken for each (column).
pub fn confusion_matrix(counts: &[Vec<u64>], names: &[String]) -> String {
    const SIDE: u32 = 640;
    /// Cells are labelled where that can be read.
    const MAX_LABELLED: usize = 20;
    let n = counts.len();
    draw((SIDE, SIDE), |area| {
        let is_labelled = n <= MAX_LABELLED;
        let margin = if is_labelled { 90 } else { 50 };
        let mut chart = ChartBuilder::on(area)
            .caption("Confusion matrix", title())
            .margin(16)
            .set_label_area_size(LabelAreaPosition::Left, margin)
            .set_label_area_size(LabelAreaPosition::Bottom, 50)
            .build_cartesian_2d(0.0..n as f64, n as f64..0.0)?;
        let name = |&x: &f64| match x.fract() {
            0.5 if is_labelled => names[x as usize].chars().take(14).collect(),
            0.0 if !is_labelled => format!("{x}"),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(INK)
            .label_style(label())
            .x_desc("predicted")
            .y_desc("true")
            .axis_desc_style(label())
            .x_labels(0)
            .y_labels(0)
            .draw()?;
        for (truth, row) in counts.iter().enumerate() {
            let total = row.iter().sum::<u64>().max(1) as f64;
            for (predicted, &count) in row.iter().enumerate() {
                let share = count as f64 / total;
                let (x, y) = (predicted as f64, truth as f64);
                if count > 0 {
                    // Small shares are what one looks for: the root makes them visible.
                    let cell = [(x, y), (x + 1.0, y + 1.0)];
                    chart.draw_series([Rectangle::new(cell, shade(share.sqrt()).filled())])?;
                }
                if is_labelled && count > 0 {
                    let colour = if share.sqrt() > 0.55 { &PAPER } else { &INK };
                    let style = centred(label().color(colour));
                    let text = Text::new(count.to_string(), (x + 0.5, y + 0.5), style);
                    chart.draw_series([text])?;
                }
            }
        }
        let step = if is_labelled { 1 } else { n.div_ceil(10) };
        for class in (0..n).step_by(step) {
            let at = class as f64 + 0.5;
            let text = match is_labelled {
                true => name(&at),
                false => name(&(class as f64)),
            };
            let (left, bottom) = (
                chart.backend_coord(&(0.0, at)),
                chart.backend_coord(&(at, n as f64)),
            );
            let right = Pos::new(HPos::Right, VPos::Center);
            area.draw(&Text::new(
                text.clone(),
                (left.0 - 6, left.1),
                label().pos(right),
            ))?;
            let below = Pos::new(HPos::Center, VPos::Top);
            area.draw(&Text::new(
                text,
                (bottom.0, bottom.1 + 6),
                label().pos(below),
            ))?;
        }
        Ok(())
    })
}

/// A bin of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReliabilityBin {
    /// Mean probability of the predicted class.
    pub confidence: f64,
    /// Share of rows in which it was the true one.
    pub accuracy: f64,
    /// Number of rows.
    pub n_rows: u64,
}

/// Accuracy against confidence, in bins of equal width, and how many rows are in each.
pub fn reliability_diagram(bins: &[ReliabilityBin], error: f64) -> String {
    draw((480, 560), |area| {
        let (above, below) = area.split_vertically(400);
        let width = 1.0 / bins.len().max(1) as f64;
        let mut chart = ChartBuilder::on(&above)
            .caption(
                format!("Reliability (calibration error {error:.4})"),
                title(),
            )
            .margin(16)
            .set_label_area_size(LabelAreaPosition::Left, 56)
            .set_label_area_size(LabelAreaPosition::Bottom, 24)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        mesh(&mut chart.configure_mesh(), "", "accuracy", &SHORT)?;
        for (i, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.n_rows > 0) {
            let (start, end) = (i as f64 * width, (i + 1) as f64 * width);
            let bar = Rectangle::new([(start, 0.0), (end, bin.accuracy)], COLOURS[0].filled());
            chart.draw_series([bar])?;
            let outline = [(start, 0.0), (end, bin.accuracy)];
            chart.draw_series([Rectangle::new(outline, PAPER.stroke_width(1))])?;
        }
        chart.draw_series([PathElement::new(
            [(0.0, 0.0), (1.0, 1.0)],
            INK.stroke_width(1),
        )])?;
        let points = bins.iter().filter(|bin| bin.n_rows > 0);
        chart.draw_series(
            points.map(|bin| Circle::new((bin.confidence, bin.accuracy), 4, COLOURS[1].filled())),
        )?;

        let most = bins.iter().map(|bin| bin.n_rows).max().unwrap_or(0).max(1) as f64;
        let mut chart = ChartBuilder::on(&below)
            .margin(16)
            .margin_top(0)
            .set_label_area_size(LabelAreaPosition::Left, 56)
            .set_label_area_size(LabelAreaPosition::Bottom, 44)
            .build_cartesian_2d(0.0..1.0, 0.0..most * 1.05)?;
        mesh(&mut chart.configure_mesh(), "confidence", "rows", &SHORT)?;
        for (i, bin) in bins.iter().enumerate() {
            let (start, end) = (i as f64 * width, (i + 1) as f64 * width);
            let bar = [(start, 0.0), (end, bin.n_rows as f64)];
            chart.draw_series([Rectangle::new(bar, COLOURS[2].filled())])?;
        }
        Ok(())
    })
}

fn lines<X: AsRangedCoord<Value = f64>>(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    chart: &Chart,
    x: X,
    y: Range<f64>,
    x_label: &dyn Fn(&f64) -> String,
) -> DrawResult
where
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut context = ChartBuilder::on(area)
        .caption(&chart.title, title())
        .margin(16)
        .set_label_area_size(LabelAreaPosition::Left, 60)
        .set_label_area_size(LabelAreaPosition::Bottom, 46)
        .build_cartesian_2d(x, y)?;
    mesh(&mut context.configure_mesh(), &chart.x, &chart.y, x_label)?;
    for (i, series) in chart.series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        context
            .draw_series(LineSeries::new(
                series.points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let dots = series
            .points
            .iter()
            .map(|&point| Circle::new(point, 3, colour.filled()));
        context.draw_series(dots)?;
    }
    context
        .configure_series_labels()
        .background_style(PAPER.filled())
        .border_style(FAINT)
        .label_font(label())
        .draw()
}

fn mesh<'a, X, Y>(
    style: &mut plotters::chart::MeshStyle<'a, '_, X, Y, SVGBackend<'_>>,
    x: &str,
    y: &str,
    x_label: &'a dyn Fn(&f64) -> String,
) -> DrawResult
where
    X: plotters::coord::ranged1d::Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: plotters::coord::ranged1d::Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    style
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(label())
        .axis_desc_style(label())
        .x_desc(x)
        .y_desc(y)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(x_label)
        .y_label_formatter(&SHORT)
        .draw()
}

/// As axes take it.
const SHORT: fn(&f64) -> String = |value| short(*value);

fn title() -> TextStyle<'static> {
    ("sans-serif", 16).into_font().color(&INK)
}

fn label() -> TextStyle<'static> {
    ("sans-serif", 12).into_font().color(&INK)
}

fn centred(style: TextStyle<'static>) -> TextStyle<'static> {
    style.pos(Pos::new(HPos::Center, VPos::Center))
}

/// The shade of a share of 0 to 1.
fn shade(share: f64) -> RGBColor {
    let step = (share * N_SHADES as f64).ceil().clamp(1.0, N_SHADES as f64);
    mix(PAPER, COLOURS[0], step / N_SHADES as f64)
}

fn mix(from: RGBColor, to: RGBColor, share: f64) -> RGBColor {
    let channel = |from: u8, to: u8| {
        (f64::from(from) + share * (f64::from(to) - f64::from(from))).round() as u8
    };
    RGBColor(
        channel(from.0, to.0),
        channel(from.1, to.1),
        channel(from.2, to.2),
    )
}

/// The range of finite values, wider by a share on both sides, and never empty.
fn range(values: impl Iterator<Item = f64>, share: f64) -> Range<f64> {
    let (least, most) = values.filter(|value| value.is_finite()).fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(value), most.max(value)),
    );
    if least > most {
        return 0.0..1.0;
    }
    let width = match most - least {
        0.0 => least.abs().max(1.0) * 0.1,
        width => width * share,
    };
    least - width..most + width
}

/// A number as few digits as tell it apart on an axis.
fn short(value: f64) -> String {
    let text = match value.abs() {
        0.0 => return "0".to_owned(),
        10_000.0.. => return format!("{value:e}"),
        100.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Draws a picture and adds the colours of a dark page.
fn draw(
    size: (u32, u32),
    contents: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> DrawResult,
) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&PAPER)
            .and_then(|()| contents(&area))
            .and_then(|()| area.present())
            .expect("drawing in memory does not fail");
    }
    let mut rules = String::new();
    let shades = (1..=N_SHADES).map(|step| {
        let share = step as f64 / N_SHADES as f64;
        (shade(share), mix(DARK[0].1, DARK[3].1, share))
    });
    for (light, dark) in DARK.into_iter().chain(shades) {
        let (light, dark) = (hex(light), hex(dark));
        let _ = write!(
            rules,
            "[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}"
        );
    }
    let style = format!("<style>@media(prefers-color-scheme:dark){{{rules}}}</style>");
    match svg.find('>') {
        Some(end) => svg.insert_str(end + 1, &style),
        None => unreachable!("a picture begins with a tag"),
    }
    svg
}

/// As the backend writes it.
fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}
