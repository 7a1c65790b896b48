//! docs/django-example against the real Natter: Django signs its users in, they chat in Chromium,
//! and a Django view notifies one of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use natter_tests::{
    browser::Browser,
    cluster::Standalone,
    process::{Folder, PATIENCE, Process, binary, command, free_port},
    token::SECRET,
};
use serde_json::json;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Python with the example's requirements, installed once for each version of them.
fn python() -> Result<PathBuf> {
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

async fn enter(name: &str, django: &str) -> Result<Browser> {
    let browser = Browser::start(&format!("django-{name}")).await?;
    browser.goto(&format!("{django}/room/lobby/")).await?;
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

#[tokio::test(flavor = "multi_thread")]
async fn two_django_users_chat_and_are_notified() -> Result<()> {
    let python = python()?;
    let folder = Folder::new()?;
    let port = free_port();
    let django = format!("http://127.0.0.1:{port}");
    let env = [("NATTER_AUTH__SECRET", SECRET), ("NATTER_AUTH__DEV_LOGIN", "false"), ("NATTER_HTTP__ALLOWED_ORIGINS", &django)];
    let natter = Standalone::start(&env).await?;
    let made = run(command(&binary("natter")).args(["apikey", "create", "--name", "django"]).env("NATTER_DATA_DIR", &natter.data))?;
    let key = made.split_whitespace().find(|word| word.starts_with("ntr_")).context("a key")?.to_owned();

    let env: Vec<(String, String)> = [
        ("NATTER_URL", format!("http://{}", natter.node.addr)),
        ("NATTER_SECRET", SECRET.to_owned()),
        ("NATTER_API_KEY", key),
        ("DJANGO_DB", folder.path().join("db.sqlite3").display().to_string()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let manage = Path::new(ROOT).join("docs/django-example/manage.py").display().to_string();
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
    let mut server = Process::start("django", &python, &[&manage, "runserver", "--noreload", &listen], &env, folder.path())?;
    let until = Instant::now() + PATIENCE;
    while !reqwest::get(format!("{django}/accounts/login/")).await.is_ok_and(|answer| answer.status().is_success()) {
        ensure!(server.is_running() && Instant::now() < until, "Django does not serve: {}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }

    let (ann, ben) = tokio::try_join!(enter("ann", &django), enter("ben", &django))?;
    for (from, to, text) in [(&ann, &ben, "hello ben"), (&ben, &ann, "hello ann")] {
        let say = format!(
            "document.querySelector('#chat-message-input').value = '{text}';
             document.querySelector('#chat-message-submit').click();"
        );
        from.eval(&say).await?;
        to.wait_for(text, &format!("return document.querySelector('#chat-log').value.includes('{text}')")).await?;
    }

    // A view of Django's tells Ben something: live, and in his inbox.
    let greet = "const done = arguments[0];
        const csrf = document.cookie.split('; ').find(one => one.startsWith('django_csrftoken=')).split('=')[1];
        fetch('/greet/ben/', {method: 'POST', headers: {'X-CSRFToken': csrf}}).then(a => done(a.status), e => done(String(e)));";
    assert_eq!(ann.page.execute_async(greet, Vec::new()).await?, json!(200), "{}", server.log());
    ben.wait_for("the notification", "return document.querySelector('#notification-list').textContent.includes('ann says hello')").await?;
    let sql = natter.sql().await?;
    super::chat::wait_until("the inbox", async || {
        sql.count("SELECT COUNT(*) FROM notifications WHERE recipient = 'django-2'").await.is_ok_and(|count| count == 1)
    })
    .await;
    ben.screenshot("end").await?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}
