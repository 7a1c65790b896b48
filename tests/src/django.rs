//! docs/django-example as a process of its own, and Django itself for what it renders.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    browser::Browser,
    process::{Folder, PATIENCE, Process, command},
    token::SECRET,
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Renders a template with Django's own engine: first argument the text, second the values.
const RENDER: &str = "import json, sys
from django.template import Context, Engine
print(Engine().from_string(sys.argv[1]).render(Context(json.loads(sys.argv[2]))), end='')";

/// A running Django with users ann and ben.
pub struct Django {
    /// Where it serves.
    pub url: String,
    /// The process.
    pub process: Process,
    python: PathBuf,
    env: Vec<(String, String)>,
    _folder: Folder,
}

impl Django {
    /// The example on `port`, for Natter as browsers find it at `natter` and Django itself at `api`,
    /// with a key of the server API.
    pub async fn start(port: u16, natter: &str, api: &str, key: &str) -> Result<Self> {
        let (python, folder) = (python()?, Folder::new()?);
        let env: Vec<(String, String)> = [
            ("CHAT_URL", natter.to_owned()),
            ("CHAT_API_URL", api.to_owned()),
            ("CHAT_SECRET", SECRET.to_owned()),
            ("CHAT_API_KEY", key.to_owned()),
            ("DJANGO_DB", folder.path().join("db.sqlite3").display().to_string()),
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        let manage = manage();
        let managed = |arguments: &[&str], user: &str| {
            let mut command = command(&python);
            command.arg(&manage).args(arguments).envs(env.iter().map(|(name, value)| (name, value)));
            let email = format!("{user}@example.com");
            command.envs([
                ("DJANGO_SUPERUSER_USERNAME", user),
                ("DJANGO_SUPERUSER_PASSWORD", "a password"),
                ("DJANGO_SUPERUSER_EMAIL", &email),
            ]);
            run(&mut command)
        };
        managed(&["migrate"], "")?;
        managed(&["createsuperuser", "--noinput"], "ann")?;
        managed(&["createsuperuser", "--noinput"], "ben")?;
        let listen = format!("127.0.0.1:{port}");
        let process = Process::start("django", &python, &[&manage, "runserver", "--noreload", &listen], &env, folder.path())?;
        let mut django = Self { url: format!("http://{listen}"), process, python, env, _folder: folder };
        let until = Instant::now() + PATIENCE;
        while !reqwest::get(format!("{}/accounts/login/", django.url)).await.is_ok_and(|answer| answer.status().is_success()) {
            ensure!(django.process.is_running() && Instant::now() < until, "Django does not serve: {}", django.process.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(django)
    }

    /// Has to do with the user `name` as somebody does in Django's shell: `change` is Python, of `user`, who is made where there
    /// is none.
    pub fn change(&self, name: &str, change: &str) -> Result<()> {
        let code = format!(
            "from django.contrib.auth import get_user_model\n\
             user, _ = get_user_model().objects.get_or_create(username='{name}')\n\
             {change}"
        );
        let mut command = command(&self.python);
        command.args([&manage(), "shell", "-c", &code]).envs(self.env.iter().map(|(name, value)| (name, value)));
        run(&mut command).map(drop)
    }
}

/// The example's `manage.py`.
fn manage() -> String {
    Path::new(ROOT).join("docs/django-example/manage.py").display().to_string()
}

/// Signs `name` in to the Django at `site`, and waits until the lobby's page has its socket.
pub async fn enter(name: &str, site: &str) -> Result<Browser> {
    let browser = Browser::start(&format!("django-{name}")).await?;
    browser.goto(&format!("{site}/room/lobby/")).await?;
    browser.wait_for("Django's sign-in", "return !!document.querySelector('[name=password]')").await?;
    let fill = format!(
        "document.querySelector('[name=username]').value = '{name}';
         document.querySelector('[name=password]').value = 'a password';
         document.querySelector('form').submit();"
    );
    browser.eval(&fill).await?;
    browser.wait_for("the room", "return !!document.getElementById('chat-log')").await?;
    browser.wait_for("the socket", "return chatSocket !== null && chatSocket.readyState === 1").await?;
    Ok(browser)
}

/// What Django makes of a template.
pub fn render(template: &str, values: &Value) -> Result<String> {
    run(Command::new(python()?).args(["-c", RENDER, template, &values.to_string()]))
}

/// Python with the example's requirements, installed once for each version of them.
fn python() -> Result<PathBuf> {
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let requirements = Path::new(ROOT).join("docs/django-example/requirements.txt");
    let wanted = fs::read_to_string(&requirements)?;
    let venv = Path::new(ROOT).join(".cache/django");
    let (python, installed) = (venv.join("bin/python"), venv.join("installed.txt"));
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(python);
    }
    fs::create_dir_all(&venv)?;
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements))?;
    fs::write(installed, wanted)?;
    Ok(python)
}

/// Runs a command to its end, and returns what it wrote.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}
