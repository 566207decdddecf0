//! How long an ARP answer takes, as the one who asks sees it: one question at a time, and it sleeps until the
//! answer is there.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;

use crate::{Host, arp, packet, wait};

/// A question without an answer for so long is given up.
const GIVEN_UP: Duration = Duration::from_millis(500);
/// 10.128.0.0, on no segment of the testbed.
const FIRST_ASKER: u32 = 0x0a80_0000;
/// Enough that none of them asks more often than nodes answer, and few enough that the kernel of the node,
/// which makes a neighbour entry for each before it answers, knows them all.
const ASKERS: u32 = 16;

/// Asks from a host's eth0 for each of these addresses in turn, so many times, with a `pause`
/// before each question. Gives the times of the answers for each address; what was given up has none.
pub fn measure(
    host: &Host,
    addresses: &[Ipv4Addr],
    rounds: usize,
    pause: Duration,
) -> anyhow::Result<Vec<Vec<Duration>>> {
    let (interface, mut socket) = host.namespace.run(|| {
        let interface = packet::interface("eth0")?;
        anyhow::Ok((interface, packet::arp_socket(interface)?))
    })??;
    let mut buffer = [0; 256];
    let mut times = vec![Vec::with_capacity(rounds); addresses.len()];
    for round in 0..rounds {
        // In turn from several: nobody is answered for the same address without end.
        let from = Ipv4Addr::from(FIRST_ASKER + round as u32 % ASKERS);
        for (address, times) in addresses.iter().zip(&mut times) {
            std::thread::sleep(pause);
            let request = arp::request(interface.mac, from, *address);
            let asked = wait::now();
            socket.write(&request).context("asking")?;
            while asked.elapsed() < GIVEN_UP {
                let received = packet::receive(&socket, &mut buffer)?;
                let at = asked.elapsed();
                let frame = received.and_then(|length| arp::parse(&buffer[..length], at));
                if frame.is_some_and(|frame| frame.reply && frame.sender == *address) {
                    times.push(at);
                    break;
                }
            }
        }
    }
    Ok(times)
}
