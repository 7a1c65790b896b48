//! That everybody can use our own page: on a desktop and on a phone of 390 pixels, light and dark,
//! with a screen reader, and under its Content-Security-Policy.

use anyhow::{Context, Result};
use natter_tests::{browser::Browser, client::Client, cluster::Cluster, token::User};
use serde_json::json;

use super::{
    own_page::{come_in, is_up, say, sees},
    page_groups::open_room,
};

/// What axe-core finds wrong with the page as it is now.
async fn axe(browser: &Browser, what: &str) -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/js/node_modules/axe-core/axe.min.js");
    let axe = std::fs::read_to_string(path).with_context(|| format!("{path} (tests/setup.sh installs it)"))?;
    browser.eval(&format!("if (!window.axe) {{ {axe}; window.axe = axe; }}")).await?;
    let script = "const done = arguments[0];
        axe.run(document).then((found) => done(found.violations.map((one) =>
            `${one.id}: ${one.nodes.map((node) => `${node.html.slice(0, 150)} ${node.any.map((check) => check.message)}`).join('; ')}`)),
            (error) => done([String(error)]));";
    let violations = browser.page.execute_async(script, Vec::new()).await?;
    assert_eq!(violations, json!([]), "{what}");
    Ok(())
}

/// That the page's Content-Security-Policy refused nothing since it was loaded, but what is tried here: all is told in its order.
async fn no_csp_violation(browser: &Browser) -> Result<()> {
    let script = "const done = arguments[0];
        const found = [];
        const observer = new ReportingObserver((reports) => {
            found.push(...reports.map((report) => report.body.toJSON()));
            const provoked = found.findIndex((one) => one.blockedURL.includes('provoked.invalid'));
            if (provoked >= 0) done(found.slice(0, provoked));
        }, {types: ['csp-violation'], buffered: true});
        observer.observe();
        new Image().src = 'https://provoked.invalid/';";
    assert_eq!(browser.page.execute_async(script, Vec::new()).await?, json!([]), "the policy has nothing to refuse");
    Ok(())
}

/// What sticks out of the window, is cut off in it, or lies under something else where a finger
/// would press it.
const MISPLACED: &str = "
    const wrong = [];
    if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
    const top = document.querySelector('dialog') ?? document.body;
    for (const one of top.querySelectorAll('button, input, textarea, h1, h2, .text, .title, .kind, .who')) {
        const box = one.getBoundingClientRect();
        if (!one.checkVisibility() || box.width === 0 || one.closest('.visually-hidden, .skip')) continue;
        const name = `${one.tagName}.${one.className} ${one.id} ${one.textContent.slice(0, 30)}`;
        if (box.left < -1 || box.right > innerWidth + 1) wrong.push(`${name} from ${box.left} to ${box.right}`);
        if (one.tagName === 'BUTTON' && (box.width < 24 || box.height < 24) && !one.matches('.link')) wrong.push(`${name} is small`);
        // What is scrolled away is not there to be pressed.
        const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
        let scrolled = y < 0 || y > innerHeight;
        for (let parent = one.parentElement; parent; parent = parent.parentElement) {
            const around = parent.getBoundingClientRect();
            if (/auto|scroll/.test(getComputedStyle(parent).overflowY) && (y < around.top || y > around.bottom)) scrolled = true;
        }
        if (scrolled || !one.matches('button, input, textarea')) continue;
        const there = document.elementFromPoint(x, y);
        if (there !== one && !one.contains(there) && !(there?.closest('.panel') && !one.closest('.panel'))) wrong.push(`${name} lies under ${there?.tagName}.${there?.className}`);
    }
    return wrong";

async fn is_well(browser: &Browser, what: &str) -> Result<()> {
    assert_eq!(browser.eval(MISPLACED).await?, json!([]), "{what}: misplaced");
    axe(browser, what).await
}

const LONG: &str = "a-name-as-long-as-names-may-be-and-without-a-space-in-it-0123456";

/// All that the page shows, one after the other, as this device and scheme show it.
async fn tour(browser: &Browser, gateway: std::net::SocketAddr, is_phone: bool, is_dark: bool) -> Result<()> {
    let what = format!("{}-{}", if is_phone { "phone" } else { "desktop" }, if is_dark { "dark" } else { "light" });
    let (width, height) = if is_phone { (390, 844) } else { (1200, 800) };
    browser.look(width, height, is_phone, is_dark).await?;
    browser.goto(&format!("http://{gateway}/chat/lobby/")).await?;
    is_up(browser).await?;
    assert_eq!(browser.eval("return [innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]").await?, json!([width, is_dark]));
    sees(browser, "hello, see").await?;
    say(browser, &format!("and hello from {what}, {}", "w".repeat(300))).await?;
    browser.wait_for("it accepted", "return !!document.querySelector('.mark.accepted')").await?;
    is_well(browser, &format!("{what}: a room")).await?;
    browser.screenshot(&what).await?;
    if is_phone {
        browser.click(".back").await?;
        browser
            .wait_for(
                "the list",
                "return document.querySelector('#exist-rooms').offsetParent !== null && !document.querySelector('.type_msg').offsetParent",
            )
            .await?;
        is_well(browser, &format!("{what}: the list")).await?;
        open_room(browser, LONG).await?;
        browser.wait_for("the room", "return document.querySelector('.type_msg').offsetParent !== null").await?;
        is_well(browser, &format!("{what}: a long name")).await?;
        browser.click(".back").await?;
        open_room(browser, "lobby").await?;
    }
    browser.click("#bell").await?;
    browser.wait_for("the notification", "return !!document.querySelector('#notifications li .text')").await?;
    is_well(browser, &format!("{what}: the notifications")).await?;
    browser.click("#close-notifications").await?;
    browser.click("#room-details").await?;
    browser.wait_for("members", "return !!document.querySelector('dialog .members li[data-user]')").await?;
    is_well(browser, &format!("{what}: a group's details")).await?;
    browser.click("dialog .actions .danger").await?;
    is_well(browser, &format!("{what}: leaving")).await?;
    browser.click("dialog header .icon-button").await?;
    if is_phone {
        browser.click(".back").await?;
    }
    browser.click("#new-group").await?;
    browser.wait_for("people to choose", "return !!document.querySelector('dialog .results li')").await?;
    is_well(browser, &format!("{what}: a new group")).await?;
    no_csp_violation(browser).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_can_use_it_on_a_desktop_and_on_a_phone_light_and_dark() -> Result<()> {
    let cluster = Cluster::builder().gateways(1).start().await?;
    let gateway = cluster.gateway(0);
    let ben = Client::connect(gateway, &User::named("ben")).await?;
    let group = ben.join("lobby").await?;
    ben.send(group, "hello, see https://example.org/").await?;
    let browser = Browser::start("looks").await?;
    browser.look(390, 844, true, false).await?;
    browser.goto(&format!("http://{gateway}/sign-in")).await?;
    is_well(&browser, "signing in").await?;
    come_in(&browser, "ann", gateway).await?;
    let make = format!(
        "const done = arguments[0];
         import('/assets/page/api.js').then(({{call}}) => call('POST', '/groups', {{display_name: '{LONG}', members: ['id-ben']}}, {{key: 'long'}}))
             .then(() => done(true), (error) => done(String(error)));"
    );
    assert_eq!(browser.page.execute_async(&make, Vec::new()).await?, true);
    ben.request(json!({"type": "notify", "to": {"user": "ann"}, "body": "ping! ".repeat(40), "nonce": uuid::Uuid::now_v7()})).await?;
    for (is_phone, is_dark) in [(true, false), (true, true), (false, false), (false, true)] {
        tour(&browser, gateway, is_phone, is_dark).await?;
    }
    browser.close().await
}
