//! Names in flags, and a DNS that goes away.
//!
//! Topology: `e2e::segment`. Announcers see files of their own in place of /etc/hosts and
//! /etc/resolv.conf; the name server of the latter never answers.
//!
//! 1. An announcer follows an ipam-service by name; started again without DNS it finds it under the
//!    address that the name had.
//! 2. One that has never known the name says so, waits, and follows when the name is there.
//! 3. Members to join are found under their last addresses, too.

use std::path::{Path, PathBuf};

use e2e::segment::{SOON, Segment};
use pharos_testbed::{Launch, skip, wait, workspace_binary};
use tempfile::TempDir;

const URL: &str = "http://ipam.test:7471";
const IPAM: &str = "192.168.12.1 ipam.test\n";
const CONNECTED: &str = "pharos_announcer_stream_connected";

/// What an announcer sees of DNS.
struct Names {
    directory: TempDir,
}

impl Names {
    fn new(hosts: &str) -> anyhow::Result<Self> {
        let names = Self {
            directory: tempfile::tempdir()?,
        };
        // Nobody has this address.
        std::fs::write(names.file("resolv.conf"), "nameserver 192.168.12.250\n")?;
        std::fs::write(names.file("hosts"), hosts)?;
        Ok(names)
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
    }

    /// Another text in the same file, which is the one that is seen.
    fn set(&self, hosts: &str) -> anyhow::Result<()> {
        std::fs::write(self.file("hosts"), hosts)?;
        Ok(())
    }

    fn launch(&self) -> anyhow::Result<Launch> {
        let script = "mount --bind \"$0/hosts\" /etc/hosts && \
                      mount --bind \"$0/resolv.conf\" /etc/resolv.conf && exec \"$@\"";
        Ok(Launch::program("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(self.directory.path())
            .arg(workspace_binary("announcer")?))
    }
}

#[test]
fn an_announcer_without_dns_finds_its_server_where_it_was() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let names = Names::new(IPAM)?;
    let mut segment = Segment::start(&[], &[])?;
    segment.set_ipam(URL);
    segment.start_launch(names.launch()?, "n1", "n1")?;
    segment.wait_metric("n1", CONNECTED, "1")?;
    names.set("")?;
    segment.announcer("n1")?.kill()?;
    segment.start_launch(names.launch()?, "n1", "n1")?;
    segment.wait_metric("n1", CONNECTED, "1")?;
    let known = "cannot look up a name: using its last addresses";
    segment.announcer("n1")?.wait_log(known, SOON)?;
    // The question that hangs is waited for; after it the name is looked up anew with each stream.
    names.set(IPAM)?;
    wait::until_ok("the name is found again", 2 * SOON, || {
        segment.peer.stop();
        let host = segment.lan.host("ipam")?;
        segment.peer.start_again(host)?;
        segment.wait_metric("n1", CONNECTED, "1")?;
        let log = segment.announcer("n1")?.log();
        anyhow::ensure!(log.contains("the name is found again"));
        Ok(())
    })
}

#[test]
fn a_name_that_was_never_known_stops_nobody() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let names = Names::new("")?;
    let mut segment = Segment::start(&[], &[])?;
    segment.set_ipam(URL);
    segment.start_launch(names.launch()?, "n1", "n1")?;
    wait::until("/readyz says why", SOON, || {
        let (status, reason) = segment.admin("n1", "/readyz").ok()?;
        (status != 200 && reason.contains("cannot look up ipam.test")).then_some(())
    })?;
    names.set(IPAM)?;
    segment.wait_metric("n1", CONNECTED, "1")
}

#[test]
fn members_to_join_are_found_where_they_were() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let names = Names::new("192.168.12.11 n1.test\n")?;
    // Nobody tells who is a member.
    let mut segment = Segment::start(&[], &[])?;
    segment.peer.stop();
    segment.start_announcer("n1")?;
    segment.set_flags(&["--members-join", "n1.test"]);
    let alive = "pharos_announcer_members_alive";
    segment.start_launch(names.launch()?, "n2", "n2")?;
    segment.wait_metric("n2", alive, "1")?;
    names.set("")?;
    segment.announcer("n2")?.kill()?;
    segment.wait_metric("n1", alive, "0")?;
    segment.start_launch(names.launch()?, "n2", "n2")?;
    segment.wait_metric("n2", alive, "1")
}
