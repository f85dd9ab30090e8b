//! Plot of the growth of each method: a panel with the times as multiples of the first one.

use std::fmt::Write;

use super::{GOAL, Growth, STEPS};

/// Panels in a row.
const COLUMNS: usize = 4;

/// Size of a panel with its title, in pixels.
const PANEL: (f64, f64) = (230.0, 110.0);

/// Size of the area of the line in a panel, in pixels.
const AREA: (f64, f64) = (180.0, 60.0);

/// Multiple at the upper edge of a panel.
const TOP: f64 = 2.0;

/// Height of the title of the plot, in pixels.
const TITLE: f64 = 40.0;

/// Returns the plot as SVG.
pub(super) fn svg(growths: &[Growth], data_set: &str) -> String {
    let rows = growths.len().div_ceil(COLUMNS);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (width, height) = (PANEL.0 * COLUMNS as f64, TITLE + PANEL.1 * rows as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"13\">p50 of each call with 10 %, 50 % and 100 % of {data_set}; \
         dashed: {GOAL} times the first</text>\n"
    );
    for (number, growth) in growths.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let (column, row) = ((number % COLUMNS) as f64, (number / COLUMNS) as f64);
        panel(&mut svg, growth, (10.0 + PANEL.0 * column, TITLE + PANEL.1 * row));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Adds the panel of a method at a place.
fn panel(svg: &mut String, growth: &Growth, (left, top): (f64, f64)) {
    let title = growth.method.replace("PROJECT_ORDER_", "").to_lowercase();
    let name = growth.method.split(',').next().unwrap_or_default();
    let order = title.split_once(", ").map(|it| format!(", {}", it.1.replace('_', " ")));
    let first = growth.times_us.first().copied().unwrap_or(1.0);
    let y = |multiple: f64| top + 20.0 + AREA.1 * (1.0 - multiple.min(TOP) / TOP);
    let points = growth.times_us.iter().zip(STEPS).map(|(time, percent)| {
        format!("{:.1},{:.1}", left + AREA.0 * f64::from(percent) / 100.0, y(time / first))
    });
    let points: Vec<_> = points.collect();
    let (bottom, right, goal, end) = (y(0.0), left + AREA.0, y(GOAL), growth.ratio());
    let color = if end <= GOAL { "#1f6feb" } else { "#c62828" };
    let _ = write!(
        svg,
        "<text x=\"{left}\" y=\"{:.1}\">{name}{}</text>\n\
         <path d=\"M{left} {bottom}H{right}M{left} {goal}H{right}\" \
         stroke=\"#bbb\" stroke-dasharray=\"3 3\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{color}\">{end:.2}</text>\n\
         <text x=\"{left}\" y=\"{:.1}\" fill=\"#666\" font-size=\"9\">{first:.0} µs</text>\n",
        top + 10.0,
        order.unwrap_or_default(),
        points.join(" "),
        right + 6.0,
        y(end) + 4.0,
        bottom + 11.0,
    );
}
