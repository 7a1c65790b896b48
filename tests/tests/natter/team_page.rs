//! A team's own page, a Django template with inline scripts as in the Channels tutorial, served by
//! the gateways themselves (`http.pages_dir`).

use std::fs;

use anyhow::{Context, Result};
use natter_tests::{
    browser::Browser,
    cluster::Cluster,
    process::{Folder, PATIENCE, Process, binary},
};

const PAGE: &str = include_str!("../fixtures/team_pages/chat.html");

/// The folder of pages: the template, and the jQuery it wants.
fn pages() -> Result<Folder> {
    let folder = Folder::new()?;
    let jquery = ["/usr/share/javascript/jquery/jquery.min.js", "/usr/share/nodejs/jquery/dist/jquery.min.js"];
    let jquery = jquery.iter().find_map(|path| fs::read(path).ok()).context("jQuery: install libjs-jquery")?;
    fs::create_dir(folder.path().join("static"))?;
    fs::write(folder.path().join("static/jquery.min.js"), jquery)?;
    fs::write(folder.path().join("chat.html"), PAGE)?;
    Ok(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_s_own_template_works_on_two_gateways() -> Result<()> {
    let folder = pages()?;
    let dir = folder.path().display().to_string();
    let cluster = Cluster::builder().env("NATTER_HTTP__PAGES_DIR", &dir).start().await?;
    let (ann, ben) = tokio::try_join!(Browser::start("team-ann"), Browser::start("team-ben"))?;
    for (browser, name, gateway) in [(&ann, "ann", 0), (&ben, "ben", 1)] {
        let base = format!("http://{}", cluster.gateway(gateway));
        browser.sign_in(&base, name).await?;
        browser.goto(&format!("{base}/chat/lobby/")).await?;
        browser.wait_for("the socket", "return opened").await?;
    }
    let title = ben.eval("return document.querySelector('h3').textContent").await?;
    assert_eq!(title, "ben in lobby");
    assert_eq!(ben.eval("return document.getElementById('user_ann').textContent").await?, "ann");
    for (from, to, text) in [(&ann, &ben, "hello <b>ben</b>"), (&ben, &ann, "hello ann")] {
        let say = format!("$('#chat-message-input').val('{text}'); $('#chat-message-submit').click();");
        from.eval(&say).await?;
        to.wait_for(text, &format!("return $('#chat-log').val().includes('{text}')")).await?;
    }
    ben.screenshot("end").await?;
    tokio::try_join!(ann.close(), ben.close())?;
    Ok(())
}

#[test]
fn a_broken_template_stops_the_start_with_file_and_line() -> Result<()> {
    let folder = pages()?;
    fs::write(folder.path().join("chat.html"), "one\ntwo\n{% url 'chat' %}\n")?;
    let env = [
        ("NATTER_HTTP__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("NATTER_HTTP__PAGES_DIR".to_owned(), folder.path().display().to_string()),
        ("NATTER_DATA_DIR".to_owned(), folder.path().join("data").display().to_string()),
    ];
    let logs = Folder::new()?;
    let mut process = Process::start("natter", &binary("natter"), &[], &env, logs.path())?;
    let status = process.wait(PATIENCE)?;
    let said = process.log();
    assert!(!status.success(), "{said}");
    let place = format!("{}:3: ", folder.path().join("chat.html").display());
    assert!(said.contains(&place) && said.contains("write the path itself"), "{said}");
    Ok(())
}
