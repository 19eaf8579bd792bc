//! The side of the wire-up of all ranks but rank 0.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vincs_transport_tcp::auth::{AUTH_TIME, AuthFault, Authenticated};

use crate::wireup::card::Card;
use crate::wireup::channel::{Channel, ChannelError};
use crate::wireup::mesh::{Connecting, Listening};
use crate::wireup::message::{ToCoordinator, ToMember};
use crate::wireup::signs::{self, SIGN_OF_LIFE, Signs};
use crate::wireup::{Keys, Machine, Own, Refusal, STEP_TIME};

/// How often a rank looks for rank 0.
const RETRY: Duration = Duration::from_millis(100);

/// How much longer than its own time a rank waits for the word of rank 0, which may have started later and names who is missing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The lowest rank but rank 0.
const LOWEST: u32 = 1;

/// What a user can do about a rank that does not find rank 0.
const WAYS_OUT: &str = "--net-if names the network between the ranks, --address-file a file that all of them see, --wireup-timeout \
                        gives more time";

/// Looks for rank 0 until it is found or the time is over, with the card as it is each time.
///
/// # Errors
/// [`Refusal`] with the last reason.
pub(crate) fn reach(
    card: impl Fn() -> Result<Card, String>,
    boot_id: &str,
    limit: Duration,
) -> Result<(Channel, Card), Refusal> {
    let deadline = Instant::now() + limit;
    loop {
        let cause = match card() {
            Ok(card) => match connect(&card, boot_id, deadline) {
                Ok(channel) => return Ok((channel, card)),
                Err((cause, true)) => return Err(Refusal::new(cause)),
                Err((cause, false)) => cause,
            },
            Err(cause) => cause,
        };
        if Instant::now() + RETRY >= deadline {
            return Err(Refusal::new(format!("{cause} (for {} s): {WAYS_OUT}", limit.as_secs())));
        }
        std::thread::sleep(RETRY);
    }
}

/// Connects to the rank 0 of a card, which is there now or not at all.
///
/// # Errors
/// Why it is not reached.
pub(crate) fn connect_once(card: &Card, boot_id: &str) -> Result<Channel, String> {
    connect(card, boot_id, Instant::now() + AUTH_TIME).map_err(|(cause, _)| cause)
}

/// Tries each address once; why none is rank 0's, and whether it is no use to try again.
fn connect(card: &Card, boot_id: &str, deadline: Instant) -> Result<Channel, (String, bool)> {
    let mut causes = Vec::new();
    let mut is_final = false;
    for address in &card.addresses {
        // Another host's loopback is not ours.
        if address.ip().is_loopback() && card.boot_id != boot_id {
            continue;
        }
        match Authenticated::connect(*address, &card.secret, deadline.min(Instant::now() + AUTH_TIME)) {
            Ok(stream) => return Ok(Channel::new(stream)),
            Err(error) => {
                is_final |= matches!(error.cause, AuthFault::OtherVersion(_));
                causes.push(error.to_string());
            }
        }
    }
    if causes.is_empty() {
        causes.push("it listens on its own host only".to_owned());
    }
    Err((format!("rank 0 on {} cannot be reached: {}", card.host, causes.join("; ")), is_final))
}

/// Introduces this rank and does what rank 0 says, until the machine can start.
///
/// # Errors
/// [`Refusal`] when there will be no machine.
pub(crate) fn join(mut channel: Channel, own: &Own, keys: &Keys, limit: Duration) -> Result<Machine, Refusal> {
    let lost = |error: ChannelError| Refusal::new(format!("rank 0 left the wire-up: {error}"));
    channel.send(&own.introduction, soon()).map_err(lost)?;
    channel.send(&own.hello, soon()).map_err(lost)?;
    // Rank 0 waits for the others first.
    match channel.receive(Instant::now() + limit + PATIENCE).map_err(lost)? {
        ToMember::Refused { line, said } => Err(Refusal { line, said }),
        ToMember::Listen(address) => assemble(channel, own, keys, address),
        ToMember::Roster(_)
        | ToMember::Go
        | ToMember::Bye { .. }
        | ToMember::Wait
        | ToMember::Seat(_)
        | ToMember::Joined => Err(out_of_turn()),
    }
}

/// All ranks are there: connects with them. From here on each knows that the others are alive.
fn assemble(mut channel: Channel, own: &Own, keys: &Keys, address: IpAddr) -> Result<Machine, Refusal> {
    // All notice when rank 0 is not there any more: the lowest says it.
    let said = own.introduction.rank != LOWEST;
    let lost = |error: ChannelError| Refusal { line: format!("rank 0 left the wire-up: {error}"), said };
    let failed = |error: io::Error| Refusal::new(error.to_string());
    let sender = || channel.sender().map_err(failed);
    let _signs = Signs::show(vec![sender()?], ToCoordinator::Wait).map_err(failed)?;
    let mut answering = sender()?;
    let mut listening = match Listening::bind(address) {
        Ok(bound) => {
            answering.send(&ToCoordinator::Listening(bound.address()), soon()).map_err(lost)?;
            Some(bound)
        }
        Err(cause) => {
            answering.send(&ToCoordinator::Failed(cause), soon()).map_err(lost)?;
            None
        }
    };
    let mut answering = Some(answering);
    let mut connecting = None;
    loop {
        match signs::listen(&mut channel, &ToMember::Wait, soon()).map_err(lost)? {
            ToMember::Refused { line, said } => return Err(Refusal { line, said }),
            ToMember::Roster(roster) => {
                let (listening, mut answering) = listening.take().zip(answering.take()).ok_or_else(out_of_turn)?;
                let tell = move |answer: &ToCoordinator| {
                    // Who listens to rank 0 notices that it is gone.
                    let _ = answering.send(answer, soon());
                };
                let started = Connecting::start(listening, own.introduction.rank, &roster, keys, tell);
                connecting = Some((started.map_err(failed)?, *roster));
            }
            ToMember::Go => {
                let (connecting, roster) = connecting.ok_or_else(out_of_turn)?;
                // Rank 0 has heard of it.
                let mesh = connecting.mesh(SIGN_OF_LIFE).map_err(|fault| Refusal::new(fault.into_line()))?;
                return Ok(Machine { mesh, roster, channels: vec![channel], doorstep: None, visitors: None });
            }
            ToMember::Listen(_) | ToMember::Bye { .. } | ToMember::Wait | ToMember::Seat(_) | ToMember::Joined => {
                return Err(out_of_turn());
            }
        }
    }
}

fn soon() -> Instant {
    Instant::now() + STEP_TIME + PATIENCE
}

fn out_of_turn() -> Refusal {
    Refusal::new("rank 0 speaks out of turn: use the same vincs everywhere")
}
