//! What drawings are made of: one standalone SVG. No scripts; its own background, so that it can stand on a dark page too.

use std::fmt::Write as _;

/// What is drawn so far.
#[derive(Debug, Default)]
pub struct Canvas {
    text: String,
}

/// Where a text stands to its point.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    /// Adds an element as it is.
    pub fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(element);
        self.text.push('\n');
    }

    /// Writes a text.
    pub fn label(&mut self, (x, y): (f64, f64), anchor: Anchor, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        self.push(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\"{anchor} {style}>{}</text>", escape(text)));
    }

    /// Draws a straight line.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, style: &str) {
        self.push(format_args!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{colour}\" fill=\"none\" {style}/>"));
    }

    /// Draws a square, with a title that shows under the pointer.
    pub fn square(&mut self, (x, y): (f64, f64), side: f64, style: &str, title: Option<&str>) {
        let title = title.map_or_else(String::new, |title| format!("<title>{}</title>", escape(title)));
        self.push(format_args!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side}\" height=\"{side}\" rx=\"2\" {style}>{title}</rect>"));
    }

    /// The drawing of this size, in pixels, as one file.
    #[must_use]
    pub fn document(&self, title: &str, width: f64, height: f64) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.0}\" width=\"{width}\" \
             height=\"{height:.0}\" role=\"img\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\" font-size=\"13\">\n\
             <title>{}</title>\n<rect width=\"{width}\" height=\"{height:.0}\" rx=\"10\" fill=\"#ffffff\"/>\n{}</svg>\n",
            escape(title),
            self.text
        )
    }
}

/// Text as XML.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
