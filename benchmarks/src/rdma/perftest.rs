//! Floors: the tools of Debian's perftest, between two processes of this host over the same device.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use vincs_transport_rdma::choose::LinkLayer;
use vincs_transport_rdma::devices::find_device;

use super::helper::Helper;
use super::pair::{Failure, Pair};

/// How often a client is started until its server listens.
const TRIES: u32 = 20;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(300);

/// A tool with what it is to do.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// What it is to do, beside the number of operations.
    pub arguments: &'static [&'static str],
    /// The column of its table that counts.
    pub column: &'static str,
    /// What that is multiplied with.
    pub factor: f64,
}

/// Where tools run.
#[derive(Clone, Debug)]
pub struct Place {
    address: IpAddr,
    /// Device, port, and on Ethernet the place of the address in the port's table.
    device: Vec<String>,
    /// The next server's TCP port.
    next: u16,
}

impl Place {
    /// The device with an address.
    ///
    /// # Errors
    /// For each device of this host why it cannot be used.
    pub fn new(address: IpAddr) -> Result<Self, Failure> {
        let found = find_device(address).map_err(|reasons| reasons.join("; "))?;
        let mut device = vec!["-d".to_owned(), found.port.device, "-i".to_owned(), found.port.number.to_string()];
        if found.port.link_layer == LinkLayer::Ethernet {
            device.extend(["-x".to_owned(), found.gid.index.to_string()]);
        }
        Ok(Self { address, device, next: 19_000 })
    }

    fn start(&self, tool: &Tool, count: u64, server: bool) -> Result<Helper, Failure> {
        let mut command = Command::new(tool.name);
        command.args(&self.device).args(tool.arguments).args(["-F", "-n", &count.to_string()]);
        command.args(["-p", &self.next.to_string()]);
        if !server {
            command.arg(self.address.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Helper::start(&mut command)
            .map_err(|error| format!("{}: {error}; Debian's package perftest has it", tool.name).into())
    }

    /// What a tool measures in so many operations. The pair stays alive meanwhile.
    ///
    /// # Errors
    /// It is not there, fails, or prints something else.
    pub fn run(&mut self, pair: &Pair, tool: &Tool, count: u64) -> Result<f64, Failure> {
        self.next += 1;
        let mut server = self.start(tool, count, true)?;
        let mut said = Err("was not run".into());
        for _ in 0..TRIES {
            thread::sleep(PAUSE);
            said = pair.while_running(self.start(tool, count, false)?);
            if said.is_ok() {
                break;
            }
        }
        let said = said.map_err(|error: Failure| format!("{}: {error}", tool.name))?;
        // It ends with its client.
        server.wait()?;
        let value = value(&said, tool.column);
        let value = value.ok_or_else(|| format!("{} has no {} in what it prints:\n{said}", tool.name, tool.column))?;
        Ok(value * tool.factor)
    }
}

/// The value in a column of the table that a tool prints.
fn value(said: &str, column: &str) -> Option<f64> {
    let mut lines = said.lines().skip_while(|line| !line.trim_start().starts_with("#bytes"));
    // Of "BW average[…]" the first word is no column of its own.
    let mut names = lines.next()?.split_whitespace().filter(|word| *word != "BW");
    let place = names.position(|name| name == column)?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_is_found_by_its_name() {
        let latency = "----\n Mtu : 1024[B]\n #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]\n 4096    1000          60.35          900.99       66.51     \t       70.00\n----\n";
        assert_eq!(value(latency, "t_typical[usec]"), Some(66.51));
        let bandwidth = " #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]\n 4096       5000             0.00               1.25   \t\t   0.038\n";
        assert_eq!(value(bandwidth, "average[Gb/sec]"), Some(1.25));
        assert_eq!(value(bandwidth, "t_typical[usec]"), None);
        assert_eq!(value("nothing", "average[Gb/sec]"), None);
    }
}
