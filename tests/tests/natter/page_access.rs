//! Who comes to our own page, and how: with a token where names are not enough, without a mouse, in
//! another language.

use anyhow::Result;
use fantoccini::key::Key;
use natter_tests::{browser::Browser, client::Client, cluster::Cluster, token::User};
use serde_json::json;

use super::own_page::{is_up, sees};

/// What has the focus, as a screen reader would name it.
const FOCUS: &str = "const found = document.activeElement;
    return found.getAttribute('aria-label') || document.querySelector(`label[for='${found.id}']`)?.textContent || found.textContent.trim()";
/// The ring around what has the focus.
const RING: &str =
    "const style = getComputedStyle(document.activeElement), around = getComputedStyle(document.activeElement.parentElement);
    return style.outlineStyle !== 'none' && style.outlineWidth !== '0px' || around.boxShadow !== 'none'";

/// Presses Tab until what has the focus is called so, and looks that it can be seen there.
async fn tab_to(browser: &Browser, name: &str) -> Result<()> {
    let mut passed = Vec::new();
    for _ in 0..60 {
        browser.press(Key::Tab).await?;
        let focus = browser.eval(FOCUS).await?;
        if focus == name {
            assert_eq!(browser.eval(RING).await?, true, "{name} shows that it has the focus");
            return Ok(());
        }
        passed.push(focus);
    }
    anyhow::bail!("Tab does not lead to {name:?}, but to {passed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_signs_in_and_a_conversation_needs_no_mouse() -> Result<()> {
    let cluster = Cluster::builder().env("NATTER_AUTH__DEV_LOGIN", "false").start().await?;
    let ben = Client::connect(cluster.gateway(1), &User::named("ben")).await?;
    let group = ben.join("lobby").await?;
    ben.send(group, "who is there?").await?;
    let browser = Browser::start("keyboard").await?;
    browser.goto(&format!("http://{}/chat/lobby/", cluster.gateway(0))).await?;
    browser.wait_for("the sign-in page", "return !!document.querySelector('#token-submit:enabled')").await?;

    // A token that does not hold is refused with words, a good one lets in; there is no other way.
    browser.wait_for_value(json!("Access token"), FOCUS).await?;
    assert_eq!(browser.eval("return document.getElementById('name-input')").await?, json!(null));
    browser.type_text("nonsense").await?;
    tab_to(&browser, "Sign in").await?;
    browser.press(Key::Enter).await?;
    let refused = "return !document.getElementById('sign-in-error').hidden && document.getElementById('sign-in-error').textContent";
    browser.wait_for_value(json!("The token is missing, has expired, or is not for this service."), refused).await?;
    browser.eval("document.getElementById('token-input').value = ''; document.getElementById('token-input').focus()").await?;
    browser.type_text(&User::named("ann").token()).await?;
    tab_to(&browser, "Sign in").await?;
    browser.press(Key::Space).await?;
    browser.wait_for("the room", "return location.pathname === '/chat/lobby/' && !!document.getElementById('status')").await?;
    is_up(&browser).await?;

    // The room that is open takes what is typed.
    sees(&browser, "who is there?").await?;
    browser.wait_for_value(json!("Message lobby"), FOCUS).await?;
    browser.type_text("only me").await?;
    browser.press(Key::Enter).await?;
    ben.wait_for_body("only me").await?;

    // Another person: found, opened, written to.
    browser.page.refresh().await?;
    is_up(&browser).await?;
    tab_to(&browser, "Find people").await?;
    browser.type_text("be").await?;
    browser.wait_for_value(json!(["id-ben"]), "return [...document.querySelectorAll('.other_user')].map((one) => one.id.slice(5))").await?;
    browser.press(Key::Tab).await?;
    browser.press(Key::Enter).await?;
    browser.wait_for_value(json!("Message Ben"), FOCUS).await?;
    browser.type_text("just us").await?;
    browser.press(Key::Enter).await?;
    ben.wait_for_body("just us").await?;

    // Dialog and notifications: opened, closed by Escape, and back where one was.
    tab_to(&browser, "New group").await?;
    browser.press(Key::Enter).await?;
    browser.wait_for_value(json!("Group name"), FOCUS).await?;
    let inside = "return document.querySelector('dialog').contains(document.activeElement) || document.activeElement === document.body";
    for _ in 0..8 {
        browser.press(Key::Tab).await?;
        assert_eq!(browser.eval(inside).await?, true, "the focus stays in the dialog");
    }
    browser.press(Key::Escape).await?;
    browser.wait_for("no dialog", "return !document.querySelector('dialog')").await?;
    browser.wait_for_value(json!("New group"), FOCUS).await?;
    tab_to(&browser, "Notifications").await?;
    browser.press(Key::Enter).await?;
    browser.wait_for_value(json!("Close"), FOCUS).await?;
    browser.press(Key::Escape).await?;
    browser.wait_for_value(json!("Notifications"), FOCUS).await?;
    browser.wait_for("no panel", "return document.getElementById('notification-panel').hidden").await?;

    // Out, and the page is closed to who is not signed in.
    tab_to(&browser, "Sign out").await?;
    browser.press(Key::Enter).await?;
    browser.wait_for("the sign-in page", "return !!document.getElementById('token-input')").await?;
    let drafts = "return Object.keys(sessionStorage).filter((key) => key.startsWith('natter-draft-'))";
    assert_eq!(browser.eval(drafts).await?, json!([]), "what was not sent is forgotten");
    browser.goto(&format!("http://{}/chat/lobby/", cluster.gateway(1))).await?;
    browser.wait_for("the sign-in page", "return location.pathname === '/sign-in'").await?;
    browser.close().await
}

/// The language twice, the texts that are not as they should be, and those that are in English.
const FOREIGN: &str = "const done = arguments[0];
    import('/assets/page/strings.js').then(({STRINGS, language, t}) => {
        const wrong = [];
        const check = (name, read) => { for (const one of document.querySelectorAll(`[${name}]`)) {
            const wanted = t(one.getAttribute(name));
            if (!['connecting', 'loading', 'no_people', 'notifications'].includes(one.getAttribute(name)) && read(one) !== wanted) wrong.push([wanted, read(one)]);
        } };
        check('data-t', (one) => one.textContent);
        check('data-t-label', (one) => one.getAttribute('aria-label'));
        check('data-t-hint', (one) => one.placeholder);
        done([language, document.documentElement.lang, wrong, Object.values(STRINGS.en).filter((text) => /[a-z]/.test(text))
            .filter((text) => document.body.innerText.split('\\n').includes(text))]);
    }, (error) => done(String(error)));";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_speaks_english_and_traditional_chinese_and_stays_with_the_one_chosen() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let ben = Client::connect(gateway, &User::named("ben")).await?;
    ben.join("lobby").await?;
    let browser = Browser::start("languages").await?;
    browser.goto(&format!("http://{gateway}/sign-in")).await?;
    browser.wait_for_value(json!("Sign in"), "return document.querySelector('#sign-in-submit:enabled')?.textContent").await?;
    browser.click("#language").await?;
    browser.wait_for_value(json!("登入"), "return document.getElementById('sign-in-submit').textContent").await?;
    browser.fill("#name-input", "ann").await?;
    browser.press(Key::Enter).await?;
    browser.wait_for("the room", "return !!document.getElementById('status')").await?;
    is_up(&browser).await?;
    let found = browser.page.execute_async(FOREIGN, Vec::new()).await?;
    assert_eq!(found, json!(["zh-Hant", "zh-Hant", [], []]));
    assert_eq!(browser.eval("return document.getElementById('status').textContent").await?, "已連線");
    browser.click("#new-group").await?;
    let dialog = "return [document.querySelector('dialog h2').textContent, document.querySelector('dialog footer .primary').textContent]";
    browser.wait_for_value(json!(["新增群組", "建立"]), dialog).await?;
    browser.press(Key::Escape).await?;
    browser.page.refresh().await?;
    is_up(&browser).await?;
    assert_eq!(browser.eval("return document.querySelector('.type_msg').placeholder").await?, "傳訊息到「lobby」", "after a reload");
    browser.screenshot("zh").await?;
    browser.click("#language").await?;
    browser.wait_for_value(json!("en"), "return document.documentElement.lang").await?;
    is_up(&browser).await?;
    let found = browser.page.execute_async(FOREIGN, Vec::new()).await?;
    assert_eq!(found[2], json!([]));
    assert_eq!(browser.eval("return document.querySelector('.type_msg').placeholder").await?, "Message lobby");
    browser.close().await
}
