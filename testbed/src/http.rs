//! HTTP/1.1 in the few lines that tests need: one GET, and a server with one answer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use crate::Namespace;

/// Status code and body of `GET path`. Call it inside [`Namespace::run`] to ask from there.
pub fn get(address: SocketAddr, path: &str, timeout: Duration) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("reading the answer")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of headers in the answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status in {head:?}"))?;
    Ok((status, body.to_owned()))
}

/// A server that answers every request with one text, until dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` inside `namespace` (or in this process's own) and answers `body`.
    pub fn start(
        namespace: Option<&Namespace>,
        address: SocketAddr,
        body: &str,
    ) -> anyhow::Result<Self> {
        let bind = || TcpListener::bind(address);
        let listener = match namespace {
            Some(namespace) => namespace.run(bind)?,
            None => bind(),
        }
        .with_context(|| format!("listening on {address}"))?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let body = body.to_owned();
        let thread = std::thread::spawn(move || serve(&listener, &stop, &body));
        Ok(Self {
            address,
            stopping,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread was printed by it; there is nothing to add while dropping.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, stopping: &AtomicBool, body: &str) {
    while !stopping.load(Ordering::Relaxed) {
        match listener.accept() {
            // A client that goes away in the middle is no concern of the server.
            Ok((stream, _)) => drop(answer(stream, body)),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn answer(mut stream: TcpStream, body: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = Vec::new();
    let mut buffer = [0_u8; 1024];
    // Requests are small: 16 KiB is a client gone wrong.
    while !request.windows(4).any(|window| window == b"\r\n\r\n") && request.len() < 16_384 {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_reads_what_the_server_says() {
        let server = Server::start(None, "127.0.0.1:0".parse().unwrap(), "hello").unwrap();
        let answer = get(server.address(), "/", Duration::from_secs(5)).unwrap();
        assert_eq!(answer, (200, "hello".to_owned()));
    }
}
