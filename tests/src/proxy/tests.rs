//! A proxy before a server that answers everything with itself.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;

/// Answers everything with itself.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn open(proxy: &Proxy, name: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let hello = format!("CONNECT {{\"name\":\"{name}\",\"verbose\":false}}\r\n");
    stream.write_all(hello.as_bytes()).await.unwrap();
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).await.unwrap();
    stream
}

async fn round_trip(stream: &mut TcpStream, within: Duration) -> bool {
    stream.write_all(b"x").await.unwrap();
    answers(stream, within).await
}

async fn answers(stream: &mut TcpStream, within: Duration) -> bool {
    tokio::time::timeout(within, stream.read_u8()).await.is_ok_and(|read| read.is_ok())
}

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_silent_link_holds_what_was_sent_and_gives_it_when_healed() {
    let proxy = Proxy::start(echo().await).unwrap();
    let (mut one, mut other) = (open(&proxy, "natter-gateway-publish").await, open(&proxy, "natter-gateway-calls").await);
    proxy.set(Select::named("publish"), Condition::both(Link::Silent));
    assert!(!round_trip(&mut one, SHORT).await, "silent");
    assert!(round_trip(&mut other, LONG).await, "another name");
    proxy.heal();
    assert!(answers(&mut one, LONG).await, "nothing is lost");
    assert_eq!(proxy.freeze(&Select::named("publish")), 1);
    assert!(!round_trip(&mut one, SHORT).await, "half open");
    assert_eq!(proxy.alive(&Select::named("publish")), 0);
    let mut next = open(&proxy, "natter-gateway-publish").await;
    assert!(round_trip(&mut next, LONG).await, "the next one is fair");
    assert_eq!(proxy.alive(&Select::named("publish")), 1);
}

#[tokio::test]
async fn a_delay_is_kept_and_a_cut_is_a_reset() {
    let proxy = Proxy::start(echo().await).unwrap();
    let mut stream = open(&proxy, "slow").await;
    let delay = Duration::from_millis(60);
    proxy.set(Select::All, Condition { down: Link::Delayed(delay), ..Condition::default() });
    let began = Instant::now();
    assert!(round_trip(&mut stream, LONG).await);
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    assert_eq!(proxy.names(), ["slow"]);
    assert_eq!(proxy.cut(&Select::named("slow")), 1);
    let end = tokio::time::timeout(LONG, stream.read_u8()).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_comes_is_refused_and_who_is_here_stays() {
    let proxy = Proxy::start(echo().await).unwrap();
    let mut here = open(&proxy, "here").await;
    proxy.set(Select::All, Condition::refusing());
    let mut late = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(tokio::time::timeout(LONG, late.read_u8()).await.unwrap().is_err(), "refused");
    assert!(round_trip(&mut here, LONG).await);
}
