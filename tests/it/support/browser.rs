//! A real Chromium without a window, spoken to over a pair of pipes, and the way from its TCP to a worker's unix socket.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    reason = "support of tests: it works on its own directories and may panic"
)]

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Nothing of a browser takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port on loopback that leads to a worker's socket.
pub struct Site {
    pub url: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Site {
    /// `who` is what the caller may do, in place of what the worker would say of this process.
    pub fn new(socket: &Path, who: Option<Value>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let socket = socket.to_owned();
        let app = axum::Router::new()
            .route(
                "/v1/whoami",
                get(async move || who.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |who| axum::Json(who).into_response())),
            )
            .fallback(move |request| forward(socket.clone(), request));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { url, runtime: Some(runtime) }
    }
}

async fn forward(socket: PathBuf, request: Request) -> Response {
    let Ok(stream) = tokio::net::UnixStream::connect(&socket).await else { return StatusCode::BAD_GATEWAY.into_response() };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    match sender.send_request(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// A browser with one page.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: Option<String>,
    number: u64,
    /// What the page complained of: exceptions, and what its policy forbids.
    pub complaints: Vec<String>,
    /// Every address that was asked for.
    pub asked: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// None, with a line that says so, where there is no Chromium.
    pub fn start() -> Option<Self> {
        let on_path =
            |name: &&str| std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(name).is_file());
        let Some(program) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(on_path) else {
            eprintln!("skipped: the page in a browser: chromium is missing (package chromium; tests/run --install installs it)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let (to, from) = (dir.path().join("to"), dir.path().join("from"));
        assert!(Command::new("mkfifo").args([&to, &from]).status().unwrap().success());
        let flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update \
                     --disable-sync --disable-extensions --disable-default-apps --hide-scrollbars --disable-dev-shm-usage --remote-debugging-pipe";
        let script = format!("exec {program} {flags} --user-data-dir=\"$1/profile\" about:blank 3<\"$1/to\" 4>\"$1/from\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let to = File::options().write(true).open(&to).unwrap();
        let mut lines = BufReader::new(File::open(&from).unwrap());
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while lines.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self { child, to, from, session: None, number: 0, complaints: Vec::new(), asked: Vec::new(), _dir: dir };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let session = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Asks the browser for something.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.from.recv_timeout(left).unwrap_or_else(|e| panic!("{method}: {e}"));
            if answer["id"] == json!(self.number) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.hear(&answer);
        }
    }

    fn hear(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.complaints.push(params["exceptionDetails"].to_string()),
            "Log.entryAdded" if params["entry"]["level"] == "error" && params["entry"]["source"] != "network" => {
                self.complaints.push(params["entry"].to_string());
            }
            "Network.requestWillBeSent" => self.asked.push(params["request"]["url"].as_str().unwrap().to_owned()),
            _ => {}
        }
    }

    /// How large the window is, and whether the system is dark.
    pub fn look(&mut self, (width, height): (u32, u32), scheme: &str) {
        let is_phone = width < 600;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": if is_phone { 2 } else { 1 }, "mobile": is_phone});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        self.call("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
    }

    /// Opens the page and waits until it has drawn everything once.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        self.until("the page has everything", "document.body && document.body.dataset.ready === 'all'");
    }

    /// The value of an expression in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// The text that somebody sees in an element; empty where it is not shown.
    pub fn text(&mut self, selector: &str) -> String {
        let value = self.eval(&format!("(e => e && e.checkVisibility() ? e.innerText : '')(document.querySelector({selector:?}))"));
        value.as_str().unwrap_or_default().to_owned()
    }

    /// How many of these there are.
    pub fn count(&mut self, selector: &str) -> u64 {
        self.eval(&format!("document.querySelectorAll({selector:?}).length")).as_u64().unwrap()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, what: &str, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(&format!("Boolean({expression})")) != json!(true) {
            if Instant::now() >= deadline {
                let shown = self.eval("document.body.innerText");
                panic!("it did not come about that {what} ({expression}); complaints: {:?}; the page says: {shown}", self.complaints);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until an element says something.
    pub fn says(&mut self, selector: &str, words: &str) {
        self.until(
            &format!("{selector} says {words:?}"),
            &format!("(e => e && e.checkVisibility() && e.innerText.includes({words:?}))(document.querySelector({selector:?}))"),
        );
    }

    pub fn click(&mut self, selector: &str) {
        self.until(&format!("{selector} is there"), &format!("document.querySelector({selector:?})"));
        self.eval(&format!("document.querySelector({selector:?}).click()"));
    }

    /// Presses a key, as a person does.
    pub fn key(&mut self, key: &str) {
        let text = if key.chars().count() == 1 {
            json!(key)
        } else if key == "Enter" {
            json!("\r")
        } else {
            Value::Null
        };
        let code = match key {
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            "Enter" => 13,
            "Escape" => 27,
            "Home" => 36,
            "End" => 35,
            _ => 0,
        };
        let mut down = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": code});
        if !text.is_null() {
            down["text"] = text;
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code}));
    }

    /// Writes as on a keyboard.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// A picture of the window, kept in the directory that SNAPKEEP_SHOTS names; without it none is taken.
    pub fn shot(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("SNAPKEEP_SHOTS") else { return };
        let data = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let bytes = base64::engine::general_purpose::STANDARD.decode(data["data"].as_str().unwrap()).unwrap();
        fs::create_dir_all(&dir).unwrap();
        fs::write(Path::new(&dir).join(format!("{name}.png")), bytes).unwrap();
    }

    /// Texts that are hard to read: with less than 4.5 to 1 between them and what is behind them (WCAG AA).
    pub fn faint(&mut self) -> Value {
        self.eval(
            r"(() => {
                const channels = text => (text.match(/[\d.]+/g) || []).map(Number);
                const light = c => { const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
                const behind = e => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor); if (c.length === 3) return c; } return [255, 255, 255]; };
                const faint = [];
                for (const e of document.querySelectorAll('body *')) {
                    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
                    if (!own || !e.checkVisibility() || e.closest('.hidden, svg, .skip, :disabled')) continue;
                    const [a, b] = [light(channels(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
                    const ratio = (a + 0.05) / (b + 0.05);
                    if (ratio < 4.5) faint.push(`${e.className || e.tagName}: ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
                }
                return faint;
            })()",
        )
    }

    /// That nothing is wider than the window, that no line of the script failed, and that nothing came from elsewhere.
    pub fn is_sound(&mut self, site: &Site) {
        let wide = self.eval("document.documentElement.scrollWidth > document.documentElement.clientWidth");
        assert_eq!(wide, json!(false), "the page is wider than the window");
        assert!(self.complaints.is_empty(), "{:?}", self.complaints);
        let foreign: Vec<_> =
            self.asked.iter().filter(|url| !url.starts_with(&site.url) && !url.starts_with("data:") && *url != "about:blank").collect();
        assert!(foreign.is_empty(), "{foreign:?}");
    }
}
