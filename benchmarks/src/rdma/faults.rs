//! Faults to read pages that are clean at the other rank: in its window, which is the NIC's work alone, and by message.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use super::costs::{Cost, Used};
use super::pair::Failure;
use crate::coherence::cluster::{Cluster, Shape};
use crate::coherence::floor::{Placed, minor_faults};
use crate::coherence::report::{Goal, Row};
use crate::coherence::scenarios::microseconds;
use crate::coherence::wires::Wires;
use crate::coherence::work::{Pages, Work};

/// Who asks for one of so many pages finds the others in the home's window.
const BLOCK: u32 = 16;

/// Blocks of one measurement.
const BLOCKS: u32 = 16;

/// Pages homed at each rank: for all measurements of the most rounds.
const PAGES: u32 = 1 << 15;

/// How long service threads look for work before they sleep, in microseconds: as in machines.
const SPIN: u64 = 20;

/// What a home has written is given to others that much later than its minimum hold time, at the latest.
const REST: Duration = Duration::from_millis(20);

/// Counters of the engine are this old at most.
const TOLD: Duration = Duration::from_millis(500);

/// Most time of a fault that the NIC serves, in times of a get's and a fault's.
const SLOWEST: Goal = Goal::AtMost(1.5);

/// Two machines of two ranks over one device, one with windows.
#[derive(Debug)]
pub struct Faults {
    clusters: [Cluster; 2],
    floors: Vec<f64>,
    values: [Vec<f64>; 2],
    costs: [Cost; 2],
    /// Of the machine with windows: faults in counted rounds, and how many of them were served in the window.
    looked: [u64; 2],
}

/// What so many faults of one machine were like.
#[derive(Debug)]
struct Measured {
    /// The median, in microseconds.
    value: f64,
    /// How many the other rank's window served.
    in_windows: u64,
    cost: Cost,
}

impl Faults {
    /// Starts the ranks.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn start(address: IpAddr) -> Result<Self, Failure> {
        let cluster = |windows| {
            let wires = Wires::Rdma { address, windows };
            Cluster::start(Shape { ranks: 2, pages: PAGES, read_ahead: 0, spin: SPIN, hold: None, wires })
        };
        let cost = |what| Cost { what, operations: 0, here: Used::default(), home: Used::default() };
        let clusters = [cluster(true)?, cluster(false)?];
        let costs = [cost("fault to read a clean page, one-sided"), cost("fault to read a clean page, by message")];
        Ok(Self { clusters, floors: Vec::new(), values: [Vec::new(), Vec::new()], costs, looked: [0; 2] })
    }

    /// Measures once: whether it counts or not. `live` is called every now and then, for others who have to show that they are alive.
    ///
    /// # Errors
    /// What the host or `live` refuses, or that no page was read in a window.
    pub fn round(&mut self, counts: bool, live: &dyn Fn() -> Result<(), Failure>) -> Result<(), Failure> {
        let floor = microseconds(&minor_faults((BLOCKS * BLOCK) as usize, Placed::usual())?);
        for ((cluster, values), cost) in self.clusters.iter_mut().zip(&mut self.values).zip(&mut self.costs) {
            let Measured { value, in_windows, cost: used } = read(cluster, live)?;
            if !counts {
                continue;
            }
            values.push(value);
            if has_windows(cluster) {
                self.looked = [self.looked[0] + used.operations, self.looked[1] + in_windows];
            }
            // The last round stands for all, as for what is measured without faults.
            *cost = Cost { what: cost.what, ..used };
        }
        if counts {
            self.floors.push(floor);
        }
        Ok(())
    }

    /// What was measured, beside as many gets.
    #[must_use]
    pub fn told(self, gets: &[f64]) -> (Vec<Row>, Vec<Cost>) {
        let floor: Vec<f64> = gets.iter().zip(&self.floors).map(|(get, fault)| get + fault).collect();
        let row = |what: &str, values, floor, goal| Row { what: what.to_owned(), unit: "µs", values, floor, goal };
        let [windows, messages] = self.values;
        let [one_sided, by_message] = &self.costs;
        let [faults, in_windows] = self.looked;
        let of_windows = format!("{} ({in_windows} of {faults} in the window)", one_sided.what);
        let rows = vec![
            row(Placed::usual().name(), self.floors, ("", Vec::new()), Goal::None),
            row(&of_windows, windows, ("get + fault", floor.clone()), SLOWEST),
            row(by_message.what, messages, ("get + fault", floor), Goal::None),
        ];
        (rows, self.costs.into())
    }
}

fn has_windows(cluster: &Cluster) -> bool {
    matches!(cluster.shape().wires, Wires::Rdma { windows: true, .. })
}

/// Measures faults: those of all pages of a block but one, for which the home has been asked before.
fn read(cluster: &mut Cluster, live: &dyn Fn() -> Result<(), Failure>) -> Result<Measured, Failure> {
    let first = cluster.fresh(1, BLOCKS * BLOCK)?;
    let pages = |first, count| Pages { first, count, mixed: false };
    cluster.run(1, Work::Write(pages(first, BLOCKS * BLOCK)))?;
    live()?;
    thread::sleep(cluster.hold() + REST);
    let blocks = (0..BLOCKS).map(|block| first + block * BLOCK);
    for block in blocks.clone() {
        cluster.run(0, Work::Read(pages(block, 1)))?;
        live()?;
    }
    thread::sleep(TOLD);
    let (shown, [here, home]) = (cluster.read_in_windows(), cluster.used()?);
    let mut times = Vec::new();
    for block in blocks {
        times.extend(cluster.run(0, Work::Read(pages(block + 1, BLOCK - 1)))?);
    }
    let [here_after, home_after] = cluster.used()?;
    // Not between the blocks: it would be counted with them, which take less than a second all together.
    live()?;
    thread::sleep(TOLD);
    let operations = u64::from(BLOCKS * (BLOCK - 1));
    let in_windows = cluster.read_in_windows() - shown;
    // Some may be asked for by message, after a look that came too early; they are told beside the others.
    if has_windows(cluster) && in_windows == 0 {
        return Err(format!("none of {operations} pages was read in the window").into());
    }
    let cost = Cost { what: "", operations, here: here_after.since(here), home: home_after.since(home) };
    Ok(Measured { value: microseconds(&times), in_windows, cost })
}
