//! Chromium behind chromedriver, headless, with a profile of its own and nothing to say to the
//! outside.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource, KeyAction, KeyActions},
    key::Key,
    wd::Capabilities,
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::process::{Folder, Process, free_port, send_signal};

/// How long anything in a page may take.
pub const IN_PAGE: Duration = Duration::from_secs(15);

/// A browser with one window. Cookies are its own.
pub struct Browser {
    /// The WebDriver session.
    pub page: Client,
    name: String,
    driver_url: String,
    profile: String,
    _driver: Process,
    _folder: Folder,
}

impl Drop for Browser {
    /// Chromium outlives a chromedriver that is killed: it is found by its profile.
    fn drop(&mut self) {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).split('\0').any(|arg| arg == self.profile)
                && let Some(pid) = process.file_name().to_str().and_then(|pid| pid.parse().ok())
            {
                let _ = send_signal(pid, libc::SIGKILL);
            }
        }
    }
}

impl Browser {
    /// Starts one.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, &["--window-size=1200,800"]).await
    }

    /// Starts one with more arguments.
    pub async fn start_with(name: &str, more: &[&str]) -> Result<Self> {
        let folder = Folder::new()?;
        let port = free_port();
        let program = find(&["chromedriver"])?;
        let port_arg = format!("--port={port}");
        let driver = Process::start("chromedriver", &program, &[&port_arg], &[], folder.path())?;
        let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
        let mut args = vec![
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--disable-default-apps",
            "--proxy-server=direct://",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            &profile,
        ];
        args.extend(more);
        let browser = find(&["chromium", "chromium-browser", "google-chrome"])?;
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), json!({"args": args, "binary": browser}));
        capabilities.insert("goog:loggingPrefs".into(), json!({"browser": "ALL"}));
        let url = format!("http://127.0.0.1:{port}");
        let until = Instant::now() + Duration::from_secs(30);
        let page = loop {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            match builder.capabilities(capabilities.clone()).connect(&url).await {
                Ok(page) => break page,
                Err(error) if Instant::now() > until => bail!("no browser: {error}; {}", driver.log()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        Ok(Self { page, name: name.to_owned(), driver_url: url, profile, _driver: driver, _folder: folder })
    }

    /// Goes to a URL.
    pub async fn goto(&self, url: &str) -> Result<()> {
        Ok(self.page.goto(url).await?)
    }

    /// What a script's `return` returns.
    pub async fn eval(&self, script: &str) -> Result<Value> {
        Ok(self.page.execute(script, Vec::new()).await?)
    }

    /// Waits until a script returns something truthy, and returns it.
    pub async fn wait_for(&self, what: &str, script: &str) -> Result<Value> {
        let until = Instant::now() + IN_PAGE;
        loop {
            let value = self.eval(script).await.with_context(|| format!("{}: {what}", self.name))?;
            if !matches!(value, Value::Null | Value::Bool(false)) && value != json!(0) && value != json!("") {
                return Ok(value);
            }
            if Instant::now() > until {
                let _ = self.screenshot("failed").await;
                let body = self.eval("return document.body.innerText").await?;
                bail!("{} waited in vain for {what}; the page says: {body}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until a script returns exactly this.
    pub async fn wait_for_value(&self, wanted: Value, script: &str) -> Result<()> {
        let until = Instant::now() + IN_PAGE;
        loop {
            let value = self.eval(script).await?;
            if value == wanted {
                return Ok(());
            }
            if Instant::now() > until {
                let _ = self.screenshot("failed").await;
                let body = self.eval("return document.body.innerText").await?;
                bail!("{}: {script} is {value}, not {wanted}; the page says: {body}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Clicks in the middle of what a CSS selector finds first, once it is there and shown. Fails
    /// where something else lies over it.
    pub async fn click(&self, css: &str) -> Result<()> {
        let shown = format!("const found = document.querySelector({}); return !!found && found.offsetParent !== null", json!(css));
        self.wait_for(css, &shown).await?;
        self.page.find(Locator::Css(css)).await?.click().await.with_context(|| format!("{}: clicking {css}", self.name))
    }

    /// Clicks into a field, and presses the keys of a text.
    pub async fn fill(&self, css: &str, text: &str) -> Result<()> {
        self.click(css).await?;
        self.eval(&format!("document.querySelector({}).select()", json!(css))).await?;
        self.type_text(text).await
    }

    /// Presses a key, as a person without a mouse does.
    pub async fn press(&self, key: Key) -> Result<()> {
        self.type_text(&char::from(key).to_string()).await
    }

    /// Presses the keys of a text, one after the other.
    pub async fn type_text(&self, text: &str) -> Result<()> {
        let down_and_up = |value| [KeyAction::Down { value }, KeyAction::Up { value }];
        let keys = text.chars().flat_map(down_and_up).fold(KeyActions::new("keyboard".to_owned()), KeyActions::then);
        Ok(self.page.perform_actions(keys).await?)
    }

    /// Has the browser look as another device does: this size, with a finger or a mouse, and dark
    /// or light. No window is as small as a phone.
    pub async fn look(&self, width: u32, height: u32, is_phone: bool, is_dark: bool) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await?;
        self.devtools("Emulation.setTouchEmulationEnabled", json!({"enabled": is_phone})).await?;
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", media).await
    }

    /// A command of the DevTools protocol, of which WebDriver knows nothing.
    async fn devtools(&self, command: &str, params: Value) -> Result<()> {
        let session = self.page.session_id().await?.context("a session")?;
        let url = format!("{}/session/{session}/goog/cdp/execute", self.driver_url);
        let answer = reqwest::Client::new().post(url).json(&json!({"cmd": command, "params": params})).send().await?;
        anyhow::ensure!(answer.status().is_success(), "{command}: {}", answer.text().await?);
        Ok(())
    }

    /// Saves a picture in target/screenshots.
    pub async fn screenshot(&self, what: &str) -> Result<PathBuf> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}-{what}.png", self.name));
        std::fs::write(&path, self.page.screenshot().await?)?;
        Ok(path)
    }

    /// Signs in by name, from a page of the same host, so that the cookies are this browser's.
    pub async fn sign_in(&self, base: &str, name: &str) -> Result<()> {
        self.goto(&format!("{base}/healthz")).await?;
        let script = "const [name, done] = arguments;
            fetch('/api/v1/dev/login', {method: 'POST', headers: {'Content-Type': 'application/json'},
                body: JSON.stringify({name})}).then(a => done(a.status), e => done(String(e)));";
        let status = self.page.execute_async(script, vec![json!(name)]).await?;
        anyhow::ensure!(status.as_u64().is_some_and(|status| (200..300).contains(&status)), "signing in: {status}");
        Ok(())
    }

    /// Ends it.
    pub async fn close(self) -> Result<()> {
        Ok(self.page.clone().close().await?)
    }
}

fn find(names: &[&str]) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = names.iter().flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    let mut candidates = candidates.collect::<Vec<_>>().into_iter();
    candidates.find(|file| file.exists()).with_context(|| format!("none of {names:?} on the path"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::customer::Customer;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_page_is_opened_and_its_scripts_run() -> Result<()> {
        let html = b"<body><script>document.body.append('made by script')</script></body>".to_vec();
        let files = HashMap::from([("/page".to_owned(), ("text/html", html))]);
        let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        let customer = Customer::start(nobody, files).await?;
        let browser = Browser::start("harness").await?;
        browser.goto(&format!("http://{}/page", customer.addr)).await?;
        let text = browser.wait_for("the text", "return document.body.innerText").await?;
        assert_eq!(text, "made by script");
        browser.close().await
    }
}
