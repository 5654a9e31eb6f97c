//! The page: one file, made of those in `page/`, with nothing from elsewhere. What it may run and show is said by the digests
//! of its own script and style; a test holds `page/digests` to them.

use super::reply::{etag_of, is_known};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use std::sync::OnceLock;

const HEAD: &str = include_str!("page/head.html");
const STYLE: &str = include_str!("page/page.css");
const BODY: &str = include_str!("page/body.html");
/// In the order in which they need one another.
const SCRIPTS: [&str; 7] = [
    include_str!("page/words.js"),
    include_str!("page/data.js"),
    include_str!("page/scale.js"),
    include_str!("page/lanes.js"),
    include_str!("page/panels.js"),
    include_str!("page/detail.js"),
    include_str!("page/main.js"),
];
/// `sha256-…` of the script and of the style, a line each.
const DIGESTS: &str = include_str!("page/digests");

struct Page {
    html: String,
    etag: String,
    policy: String,
}

fn script() -> String {
    format!("\"use strict\";\n{}", SCRIPTS.concat())
}

fn made() -> &'static Page {
    static PAGE: OnceLock<Page> = OnceLock::new();
    PAGE.get_or_init(|| {
        let html =
            format!("{HEAD}<style>{STYLE}</style>\n</head>\n{BODY}<script type=\"module\">{}</script>\n</body>\n</html>\n", script());
        let mut digests = DIGESTS.lines();
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            digests.next().unwrap_or_default(),
            digests.next().unwrap_or_default()
        );
        let etag = etag_of(html.as_bytes());
        Page { html, etag, policy }
    })
}

pub(super) async fn page(headers: HeaderMap) -> Response {
    let page = made();
    let all = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::ETAG, page.etag.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, page.policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    if is_known(&headers, &page.etag) { (StatusCode::NOT_MODIFIED, all).into_response() } else { (all, page.html.as_str()).into_response() }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read and write the checkout")]
mod tests {
    use super::*;
    use base64::Engine as _;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// As the browser has it, by coreutils.
    fn digest(text: &str) -> String {
        let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let bytes: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&out[2 * n..2 * n + 2], 16).unwrap()).collect();
        format!("sha256-{}", base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    #[test]
    fn the_policy_allows_the_pages_own_script_and_style_and_nothing_else() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/page/digests");
        let digests = format!("{}\n{}\n", digest(&script()), digest(STYLE));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &digests).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), digests, "run UPDATE_DOCS=1 cargo test --lib page");
    }

    #[test]
    fn the_page_fetches_nothing_from_elsewhere_and_puts_no_data_in_as_html() {
        let page = made();
        for never in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "src=\"http", "href=\"http", "@import", "url("]
        {
            assert!(!page.html.contains(never), "{never}");
        }
        assert_eq!(page.html.matches("</script").count(), 1);
        assert!(!page.html.contains(" style=\"") && !page.html.contains(" onclick="), "what the policy forbids");
    }
}
