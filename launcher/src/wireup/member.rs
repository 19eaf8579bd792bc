//! The side of the wire-up of all ranks but rank 0.

use std::time::{Duration, Instant};

use vincs_transport_tcp::auth::{AUTH_TIME, AuthFault, Authenticated};

use crate::wireup::card::Card;
use crate::wireup::channel::{Channel, ChannelError};
use crate::wireup::mesh::Listening;
use crate::wireup::message::{ToCoordinator, ToMember};
use crate::wireup::{Keys, Machine, Own, Refusal, STEP_TIME};

/// How often a rank looks for rank 0.
const RETRY: Duration = Duration::from_millis(100);

/// How much longer than its own time a rank waits for the word of rank 0, which may have started later and names who is missing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Looks for rank 0 until it is found or the time is over, with the card as it is each time.
///
/// # Errors
/// [`Refusal`] with the last reason.
pub(crate) fn reach(
    card: impl Fn() -> Result<Card, String>,
    boot_id: &str,
    timeout: Duration,
) -> Result<(Channel, Card), Refusal> {
    let deadline = Instant::now() + timeout;
    loop {
        let cause = match card() {
            Ok(card) => match connect(&card, boot_id, deadline) {
                Ok(channel) => return Ok((channel, card)),
                Err((cause, true)) => return Err(Refusal { line: cause, said: false }),
                Err((cause, false)) => cause,
            },
            Err(cause) => cause,
        };
        if Instant::now() + RETRY >= deadline {
            return Err(Refusal { line: format!("{cause} (for {} s)", timeout.as_secs()), said: false });
        }
        std::thread::sleep(RETRY);
    }
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
pub(crate) fn join(mut channel: Channel, own: &Own, keys: &Keys, timeout: Duration) -> Result<Machine, Refusal> {
    let lost = |error: ChannelError| Refusal { line: format!("rank 0 left the wire-up: {error}"), said: false };
    let soon = || Instant::now() + STEP_TIME;
    channel.send(&own.introduction, soon()).map_err(lost)?;
    channel.send(&own.hello, soon()).map_err(lost)?;
    let (mut listening, mut connected) = (None, None);
    // Rank 0 waits for the others first.
    let mut limit = timeout + PATIENCE;
    loop {
        let message: ToMember = channel.receive(Instant::now() + limit).map_err(lost)?;
        limit = STEP_TIME + PATIENCE;
        let answer = match message {
            ToMember::Refused { line, said } => return Err(Refusal { line, said }),
            ToMember::Listen(address) => match Listening::bind(address) {
                Ok(bound) => ToCoordinator::Listening(listening.insert(bound).address()),
                Err(cause) => ToCoordinator::Failed(cause),
            },
            ToMember::Roster(roster) => {
                let listening: Listening = listening.take().ok_or_else(out_of_turn)?;
                match listening.connect(own.introduction.rank, &roster, keys) {
                    Ok(mesh) => {
                        connected = Some((mesh, *roster));
                        ToCoordinator::Connected
                    }
                    Err(cause) => ToCoordinator::Failed(format!("cannot connect: {cause}")),
                }
            }
            ToMember::Go => {
                let (mesh, roster) = connected.ok_or_else(out_of_turn)?;
                return Ok(Machine { mesh, roster, channels: vec![channel], doorstep: None });
            }
            ToMember::Bye { .. } | ToMember::Wait => return Err(out_of_turn()),
        };
        channel.send(&answer, soon()).map_err(lost)?;
    }
}

fn out_of_turn() -> Refusal {
    Refusal { line: "rank 0 speaks out of turn: use the same vincs everywhere".into(), said: false }
}
