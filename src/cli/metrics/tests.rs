use super::*;
use crate::cli::control::Handler;

struct Fake;

impl Running for Fake {
    fn handler(&self) -> Arc<dyn Handler> {
        unreachable!("metrics ask for no handler")
    }
    fn wait(&self) -> Result<()> {
        Ok(())
    }
    fn stop(&self) {}
    fn phase(&self) -> crate::cli::backend::Phase {
        crate::cli::backend::Phase::Serving
    }
    fn check_threads(&self) -> Result<()> {
        Ok(())
    }
    fn measure(&self, page: &mut Page) {
        page.family("x", Kind::Gauge, "", "X.").value(&[], 5);
    }
}

fn ask(stream: &mut (impl Read + Write), request: &str) -> String {
    // The server may have answered and hung up before it has read all.
    let _ = stream.write_all(request.as_bytes());
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8(said).unwrap()
}

fn ask_port(place: &Place, request: &str) -> String {
    let Place::Port(at) = place else { panic!("no port") };
    ask(&mut TcpStream::connect(at).unwrap(), request)
}

#[test]
fn only_this_machine_is_served() {
    for good in ["unix:/run/x", "127.0.0.1:9101", "127.9.9.9:1", "[::1]:9101"] {
        Place::parse(good).unwrap();
    }
    for bad in
        ["", "unix:", "unix:x", "0.0.0.0:9", "[::]:9", "10.0.0.1:9", "localhost", "localhost:9", "9101"]
    {
        assert!(Place::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn one_get_is_answered_and_everything_else_refused() {
    let listener = Listener::bind(&Place::parse("127.0.0.1:0").unwrap()).unwrap();
    let server = Server::start(listener, Arc::new(Fake)).unwrap();
    let place = server.place.clone();
    let said = ask_port(&place, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Type: {CONTENT_TYPE}")), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    assert!(body.ends_with("x 5\n# EOF\n"), "{body}");
    let said = ask_port(&place, "HEAD /metrics?a=b HTTP/1.0\r\n\r\n");
    assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("\r\n\r\n"), "{said}");
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("GET /metricsx HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("GET /metrics\r\n\r\n", "400"),
        ("GET /metrics HTTP/2\r\n\r\n", "400"),
        ("\r\n\r\n", "400"),
        (long.as_str(), "400"),
    ] {
        let said = ask_port(&place, request);
        // What was not read may have reset the connection.
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status}")) || request.len() > HEAD,
            "{request:?}: {said}"
        );
    }
}

#[test]
fn who_says_nothing_holds_nobody_up_and_is_cut_off() {
    let listener = Listener::bind(&Place::parse("127.0.0.1:0").unwrap()).unwrap();
    let server = Server::start(listener, Arc::new(Fake)).unwrap();
    let Place::Port(at) = server.place else { panic!("no port") };
    let scraped = || ask_port(&server.place, "GET /metrics HTTP/1.1\r\n\r\n").contains(" 200 ");
    let begun = Instant::now();
    let mut slow = TcpStream::connect(at).unwrap();
    slow.write_all(b"GET /met").unwrap();
    let mut idle: Vec<_> = (0..20).map(|_| TcpStream::connect(at).unwrap()).collect();
    assert!(scraped());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let mut said = Vec::new();
    assert_eq!(slow.read_to_end(&mut said).unwrap_or(0), 0);
    assert!(begun.elapsed() < 3 * PATIENCE, "{:?}", begun.elapsed());
    // More than are served at once: turned away, until those before them are.
    idle.extend((0..2 * MAX_CALLERS).map(|_| TcpStream::connect(at).unwrap()));
    let until = Instant::now() + 3 * PATIENCE;
    while !scraped() {
        assert!(Instant::now() < until, "nobody is served any more");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics");
    let place = Place::Unix(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead daemon leaves its socket");
    let server = Server::start(Listener::bind(&place).unwrap(), Arc::new(Fake)).unwrap();
    let said = ask(&mut UnixStream::connect(&path).unwrap(), "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(said.contains("x 5"), "{said}");
    assert!(Listener::bind(&place).is_err());
    drop(server);
    assert!(!path.exists());
    fs::write(&path, "somebody's file").unwrap();
    assert!(Listener::bind(&place).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's file");
}
