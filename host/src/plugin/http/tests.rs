//! The connector against servers of this machine.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::plugin::bindings::telltale::plugin::http;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited {} s for {what}", LIMIT.as_secs()),
    }
}

/// A server that does one thing with each of its connections; it ends with the
/// value.
struct Server {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Server {
    async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream));
            }
        });
        Self { address, _task: task }
    }

    /// Says these bytes to whatever it is asked, and hangs up.
    async fn saying(response: impl Into<Vec<u8>>) -> Self {
        let response: Arc<[u8]> = response.into().into();
        Self::start(move |mut stream| {
            let response = response.clone();
            async move {
                read_head(&mut stream).await;
                // A client that has had enough hangs up.
                let _ = stream.write_all(&response).await;
            }
        })
        .await
    }

    /// Answers with what it was asked.
    async fn echoing() -> Self {
        Self::start(|stream| async move { echo(stream).await }).await
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let answer = service_fn(|request: Request<Incoming>| async {
        let (head, body) = request.into_parts();
        let mut lines = vec![format!("{} {}", head.method, head.uri)];
        for (name, value) in &head.headers {
            lines.push(format!("{name}: {}", value.to_str().unwrap()));
        }
        let body = body.collect().await.unwrap().to_bytes();
        lines.push(String::from_utf8(body.to_vec()).unwrap());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(lines.join("\n")))))
    });
    let connection = hyper::server::conn::http1::Builder::new();
    // A client that has its answer may go as it likes.
    let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
}

/// A connector that may call these, in a world of these names.
fn connector(
    grants: &[&str],
    resolve: impl Fn(&str) -> Vec<&'static str> + Send + Sync + 'static,
) -> Connector {
    let grants = grants.iter().map(|entry| HostGrant::try_from((*entry).to_owned()).unwrap());
    let resolve = move |name: &str| {
        Ok(resolve(name).into_iter().map(|address| address.parse().unwrap()).collect())
    };
    Connector { resolve: Arc::new(resolve), ..Connector::new(grants.collect(), Refused::default()) }
}

/// A connector that may call this server by its address.
fn connector_to(server: &Server) -> Connector {
    connector(&[&server.address.to_string()], |name| panic!("{name} was resolved"))
}

fn get(url: impl Into<String>) -> http::Request {
    http::Request {
        method: "GET".to_owned(),
        url: url.into(),
        headers: Vec::new(),
        body: None,
        timeout_ms: 0,
        body_limit: 0,
    }
}

fn header(name: &str, value: &str) -> http::Header {
    http::Header { name: name.to_owned(), value: value.as_bytes().to_owned() }
}

async fn fetch(
    connector: &Connector,
    request: http::Request,
) -> Result<http::Response, http::Error> {
    within("an answer", connector.fetch(request, LIMIT * 2)).await
}

#[track_caller]
fn denied(answer: Result<http::Response, http::Error>) -> String {
    match answer {
        Err(http::Error::Denied(words)) => words,
        other => panic!("it was not denied: {other:?}"),
    }
}

#[track_caller]
fn unavailable(answer: Result<http::Response, http::Error>) -> String {
    match answer {
        Err(http::Error::Unavailable(words)) => words,
        other => panic!("it was available: {other:?}"),
    }
}

#[tokio::test]
async fn a_request_arrives_as_it_was_made_and_nothing_of_it_is_kept() {
    let server = Server::echoing().await;
    let connector = connector_to(&server);
    let answer = fetch(&connector, get(format!("{}a?b=c#d", server.url()))).await.unwrap();
    let wanted = format!("GET /a?b=c\nhost: {}\nconnection: close\n", server.address);
    assert_eq!((answer.status, answer.truncated), (200, false));
    assert_eq!(String::from_utf8(answer.body).unwrap(), wanted);
    for (rest, line) in [("", "GET /\n"), ("?b", "GET /?b\n"), ("#d", "GET /\n")] {
        let url = format!("http://{}{rest}", server.address);
        let answer = fetch(&connector, get(url)).await.unwrap();
        assert!(answer.body.starts_with(line.as_bytes()), "{rest:?}: {answer:?}");
    }

    let request = http::Request {
        method: "POST".to_owned(),
        headers: vec![header("X-Mine", "one"), header("x-mine", "two")],
        body: Some(b"body".to_vec()),
        ..get(server.url())
    };
    let answer = fetch(&connector, request).await.unwrap();
    let body = String::from_utf8(answer.body).unwrap();
    assert_eq!(body.lines().next(), Some("POST /"));
    for line in ["x-mine: one", "x-mine: two", "content-length: 4", "body"] {
        assert!(body.lines().any(|sent| sent == line), "{line} is not in {body}");
    }
}

#[tokio::test]
async fn a_response_comes_back_as_it_is_and_no_redirection_is_followed() {
    let response = "HTTP/1.1 302 Found\r\nlocation: http://other.test/\r\nx-odd: \u{e9}\r\n\
                    content-length: 4\r\n\r\nmore";
    let server = Server::saying(response).await;
    let answer = fetch(&connector_to(&server), get(server.url())).await.unwrap();
    assert_eq!((answer.status, &*answer.body, answer.truncated), (302, &b"more"[..], false));
    let headers: Vec<_> = answer.headers.iter().map(|h| (&*h.name, &*h.value)).collect();
    let wanted: [(&str, &[u8]); 3] = [
        ("location", b"http://other.test/"),
        ("x-odd", "\u{e9}".as_bytes()),
        ("content-length", b"4"),
    ];
    assert_eq!(headers, wanted);
}

#[tokio::test]
async fn a_body_at_the_limit_is_whole_and_one_beyond_it_is_cut() {
    let server = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmore").await;
    for (body_limit, body, truncated) in [(4, "more", false), (3, "mor", true)] {
        let request = http::Request { body_limit, ..get(server.url()) };
        let answer = fetch(&connector_to(&server), request).await.unwrap();
        assert_eq!((&*answer.body, answer.truncated), (body.as_bytes(), truncated));
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_at_one_mib_and_its_connection_closed() {
    let (closed, mut closes) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_head(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n";
            stream.write_all(head).await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let request = http::Request { body_limit: u32::MAX, ..get(server.url()) };
    let answer = fetch(&connector_to(&server), request).await.unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (1024 * 1024, true));
    within("the connection to be closed", closes.recv()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_and_its_connection_closed() {
    for said in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfour"] {
        let (closed, mut closes) = tokio::sync::mpsc::channel(1);
        let server = Server::start(move |mut stream| {
            let closed = closed.clone();
            async move {
                read_head(&mut stream).await;
                stream.write_all(said.as_bytes()).await.unwrap();
                // Reads until the other end is closed.
                let _ = stream.read(&mut [0]).await;
                closed.send(()).await.unwrap();
            }
        })
        .await;
        let request = http::Request { timeout_ms: 200, ..get(server.url()) };
        let answer = fetch(&connector_to(&server), request).await;
        assert!(matches!(answer, Err(http::Error::Timeout)), "after {said:?}: {answer:?}");
        within("the connection to be closed", closes.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn a_timeout_is_never_longer_than_the_plugin_may_wait() {
    let server = Server::start(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let request = http::Request { timeout_ms: u32::MAX, ..get(server.url()) };
    let connector = connector_to(&server);
    let answer = within("it to be given up", connector.fetch(request, Duration::from_millis(50)));
    assert!(matches!(answer.await, Err(http::Error::Timeout)));
}

#[tokio::test]
async fn what_is_not_granted_is_denied_with_the_line_to_add_and_not_even_resolved() {
    let connector = connector(&["granted.test", "*.below.test"], |name| panic!("{name}"));
    for (url, entry) in [
        ("http://example.com/", "example.com"),
        ("http://Example.com.:9090/", "example.com:9090"),
        ("https://granted.test:80/", "granted.test:80"),
        ("http://below.test/", "below.test"),
        ("http://127.0.0.1/", "127.0.0.1"),
        ("https://[::1]:8080/", "[::1]:8080"),
    ] {
        let words = denied(fetch(&connector, get(url)).await);
        let line = format!("add \"{entry}\" to http = […] under [grant] in its settings");
        assert!(words.contains(&line), "{words:?} does not say {line:?}");
    }
}

#[tokio::test]
async fn a_name_below_a_wildcard_that_is_private_is_denied() {
    for address in ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0"] {
        let connector = connector(&["*.example.com"], move |_| vec![address]);
        let words = denied(fetch(&connector, get("http://api.example.com/")).await);
        assert!(words.contains("a private address, which a wildcard does not reach"), "{words}");
        assert!(words.contains("add \"api.example.com\" to http = […]"), "{words}");
    }
}

#[tokio::test]
async fn metadata_is_denied_under_any_name() {
    for (address, entry) in
        [("169.254.169.254", "169.254.169.254"), ("fd00:ec2::254", "[fd00:ec2::254]")]
    {
        for grant in ["meta.example.com", "*.example.com"] {
            let connector = connector(&[grant], move |_| vec![address]);
            let words = denied(fetch(&connector, get("http://meta.example.com/")).await);
            assert!(words.contains("link-local or metadata"), "{words}");
            assert!(words.contains(&format!("add \"{entry}\" to http = […]")), "{words}");
        }
    }
}

#[tokio::test]
async fn the_connection_goes_to_the_address_that_was_checked() {
    let server = Server::echoing().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    // A name that is another host's whenever it is asked again.
    let connector = connector(&[&format!("moving.test:{}", server.address.port())], move |_| {
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => vec!["127.0.0.1"],
            _ => vec!["169.254.169.254"],
        }
    });
    let url = format!("http://moving.test:{}/", server.address.port());
    let answer = fetch(&connector, get(&url)).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let body = String::from_utf8(answer.body).unwrap();
    assert!(body.contains(&format!("host: moving.test:{}", server.address.port())), "{body}");
    denied(fetch(&connector, get(&url)).await);
}

#[tokio::test]
async fn of_a_names_addresses_only_those_within_reach_are_tried() {
    let found = ["10.0.0.1", "1.1.1.1", "169.254.169.254", "::1", "2606:4700::1111"];
    let connector = connector(&["*.example.com"], move |_| found.to_vec());
    let target = Target::of(&"https://www.example.com/".parse().unwrap()).unwrap();
    let slot = Arc::new(connector.slots.clone().try_acquire_owned().unwrap());
    for (reach, wanted) in [
        (Reach::Public, vec!["1.1.1.1:443", "[2606:4700::1111]:443"]),
        (Reach::Private, vec!["10.0.0.1:443", "1.1.1.1:443", "[::1]:443", "[2606:4700::1111]:443"]),
    ] {
        let addresses = connector.addresses(&target, reach, &slot).await.unwrap();
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, wanted);
    }
}

#[tokio::test]
async fn the_next_address_is_tried_where_one_refuses() {
    let server = Server::echoing().await;
    // Nobody listens there: the server has taken this port of 127.0.0.1 alone.
    let grant = format!("two.test:{}", server.address.port());
    let connector = connector(&[&grant], |_| vec!["127.0.0.2", "127.0.0.1"]);
    let answer = fetch(&connector, get(format!("http://{grant}/"))).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn what_cannot_be_reached_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grant = format!("gone.test:{}", listener.local_addr().unwrap().port());
    drop(listener);
    let request = || get(format!("http://{grant}/"));
    let refusing = connector(&[&grant], |_| vec!["127.0.0.1"]);
    let words = unavailable(fetch(&refusing, request()).await);
    assert!(words.starts_with(&format!("{grant} can't be reached: ")), "{words}");
    let nowhere = connector(&[&grant], |_| vec![]);
    let words = unavailable(fetch(&nowhere, request()).await);
    assert_eq!(words, "the name gone.test can't be resolved: it has no address");
}

#[tokio::test]
async fn a_response_that_is_broken_or_too_large_is_unavailable() {
    let many = "x: y\r\n".repeat(101);
    let large = |bytes: usize| format!("x: {}\r\n", "y".repeat(bytes - 1));
    for (response, words) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour".to_owned(), "broke off"),
        ("nothing like HTTP\r\n\r\n".to_owned(), "broke off"),
        ("HTTP/1.1 200 OK\r\n".to_owned(), "broke off"),
        (format!("HTTP/1.1 200 OK\r\n{many}\r\n"), "broke off"),
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", large(HEAD_BYTES_MAX + 1)), "65536 is the limit"),
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", large(1024 * 1024)), "broke off"),
    ] {
        let server = Server::saying(response).await;
        let said = unavailable(fetch(&connector_to(&server), get(server.url())).await);
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_none_is_invalid() {
    let connector = connector(&["granted.test"], |name| panic!("{name} was resolved"));
    let good = || get("http://granted.test/");
    let with = |header: http::Header| http::Request { headers: vec![header], ..good() };
    let method = |method: &str| http::Request { method: method.to_owned(), ..good() };
    let headers = |count: usize, value: &str| http::Request {
        headers: (0..count).map(|n| header(&format!("x-{n}"), value)).collect(),
        ..good()
    };
    for (request, words) in [
        (get("granted.test"), "a URL begins with http:// or https://"),
        (get("http://a b/"), "http://a b/"),
        (get("http://user@granted.test/"), "no name and password in a URL"),
        (get("http://0x7f000001/"), "four plain numbers"),
        (method("GET / HTTP/1.1\r\nx:"), "is no method"),
        (method("CONNECT"), "CONNECT is for proxies"),
        (with(header("host", "other.test")), "header \"host\" is the hub's to set"),
        (with(header("Content-Length", "1")), "is the hub's to set"),
        (with(header("transfer-encoding", "chunked")), "is the hub's to set"),
        (with(header("a b", "c")), "is no name of a header"),
        (with(header("a", "b\r\nc: d")), "has no legal value"),
        (headers(101, ""), "101 headers"),
        (headers(2, &"x".repeat(HEAD_BYTES_MAX / 2)), "are the limit"),
    ] {
        match fetch(&connector, request).await {
            Err(http::Error::Invalid(said)) => assert!(said.contains(words), "{said:?}"),
            other => panic!("not invalid ({words}): {other:?}"),
        }
    }
}

/// A request as `exchange` takes it.
fn bare(url: &str) -> Request<RequestBody> {
    let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    Request::get(url).body(body).unwrap()
}

#[tokio::test]
async fn eight_exchanges_may_be_under_way_and_a_ninth_when_one_has_ended() {
    let server = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour").await;
    let connector = connector_to(&server);
    let exchange = || connector.exchange(bare(&server.url()), Patience::of(LIMIT));
    let mut held = Vec::new();
    for _ in 0..EXCHANGES_MAX {
        held.push(within("a response", exchange()).await.unwrap());
    }
    let ninth = within("an answer", exchange()).await;
    assert!(matches!(ninth, Err(HttpError::Busy)));
    held.pop();
    let freed = within("a place", connector.slots.acquire()).await.unwrap();
    drop(freed);
    within("a response", exchange()).await.unwrap();
}

#[tokio::test]
async fn a_response_that_nobody_reads_ends_at_its_deadline() {
    let server = Server::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        std::future::pending().await
    })
    .await;
    let connector = connector_to(&server);
    let patience = Patience::of(Duration::from_millis(200));
    let response = within("a response", connector.exchange(bare(&server.url()), patience));
    let mut body = response.await.unwrap().into_body();
    // Its slot is free before it is dropped.
    let every = u32::try_from(EXCHANGES_MAX).unwrap();
    drop(within("the end of the connection", connector.slots.acquire_many(every)).await);
    let frame = within("an end", body.frame()).await;
    assert!(matches!(frame, Some(Err(HttpError::Timeout))), "the body seemed whole");
}

#[tokio::test]
async fn a_resolution_that_hangs_keeps_its_place_when_the_request_is_given_up() {
    let (go_on, gate) = std::sync::mpsc::sync_channel::<()>(0);
    let gate = std::sync::Mutex::new(gate);
    let connector = connector(&["slow.test"], move |_| {
        let _ = gate.lock().unwrap().recv_timeout(LIMIT);
        vec![]
    });
    let request = http::Request { timeout_ms: 50, ..get("http://slow.test/") };
    let answer = fetch(&connector, request).await;
    assert!(matches!(answer, Err(http::Error::Timeout)), "{answer:?}");
    assert_eq!(connector.slots.available_permits(), EXCHANGES_MAX - 1);
    drop(go_on);
    let every = u32::try_from(EXCHANGES_MAX).unwrap();
    drop(within("the resolution to end", connector.slots.acquire_many(every)).await);
}

#[tokio::test]
async fn tls_is_for_the_name_in_the_url_and_by_roots_that_are_trusted() {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tests/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tests/server.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A client that does not trust it hangs up.
            if let Ok(stream) = acceptor.accept(stream).await {
                echo(stream).await;
            }
        }
    })
    .await;

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(include_bytes!("tests/authority.pem")).unwrap())
        .unwrap();
    let trusting = |roots| -> &'static OnceCell<TlsConnector> {
        Box::leak(Box::new(OnceCell::new_with(Some(crate::trust::trusting(roots).unwrap().into()))))
    };
    let port = server.address.port();
    let grants = ["secure.test", "other.test", "127.0.0.1"].map(|host| format!("{host}:{port}"));
    let grants = grants.each_ref().map(String::as_str);
    let mut connector = connector(&grants, |_| vec!["127.0.0.1"]);

    connector.tls = trusting(roots);
    for host in ["secure.test", "127.0.0.1"] {
        let answer = fetch(&connector, get(format!("https://{host}:{port}/"))).await.unwrap();
        let body = String::from_utf8(answer.body).unwrap();
        assert!(body.starts_with(&format!("GET /\nhost: {host}:{port}")), "{body}");
    }
    let words = unavailable(fetch(&connector, get(format!("https://other.test:{port}/"))).await);
    assert!(words.contains("certificate not valid for name"), "{words}");
    connector.tls = trusting(RootCertStore::empty());
    let words = unavailable(fetch(&connector, get(format!("https://secure.test:{port}/"))).await);
    assert!(words.contains("UnknownIssuer"), "{words}");
}
