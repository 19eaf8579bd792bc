//! `--join`: this process becomes a further rank of a machine that runs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use vincs_coherence::id::Rank;

use crate::cli::RunArgs;
use crate::cluster::{hello_of, member, others};
use crate::host::Place;
use crate::wireup::address_file;
use crate::wireup::card::Card;
use crate::wireup::channel::{Channel, ChannelError};
use crate::wireup::mesh::Listening;
use crate::wireup::message::{Introduction, JOINS, Seat, ToCoordinator, ToMember, VERSION};
use crate::wireup::{Keys, member as wireup_member};

/// How long each answer of rank 0 may take once it has begun; it makes all ranks connect with this one meanwhile.
const STEP_TIME: Duration = Duration::from_secs(70);

/// Joins the machine that `target` tells of; the exit status. One line says why not.
pub(crate) fn run(target: &str, args: &RunArgs) -> ExitCode {
    match join(target, args) {
        Ok(status) => status,
        Err(line) => crate::refuse(&format!("--join {target}: {line}")),
    }
}

fn join(target: &str, args: &RunArgs) -> Result<ExitCode, String> {
    let card = card(target, args.cluster.address_file.as_deref())?;
    let place = Place::here();
    let hello = hello_of(args, &place);
    if let Some(problem) = hello.problem {
        return Err(problem);
    }
    let mut channel = wireup_member::connect_once(&card, &place.boot_id)
        .map_err(|cause| format!("{cause}: the machine has ended, or this host does not reach it"))?;
    let lost = |error: ChannelError| format!("rank 0 on {} does not let it join: {error}", card.host);
    let introduction = Introduction {
        version: VERSION,
        rank: JOINS,
        ranks: JOINS,
        host: place.host,
        vincs: env!("CARGO_PKG_VERSION").to_owned(),
    };
    channel.send(&introduction, soon()).map_err(lost)?;
    channel.send(&hello, soon()).map_err(lost)?;
    // Another may be joining, or the machine only starting.
    let turn = Instant::now() + args.cluster.wireup_timeout() + STEP_TIME;
    let said = channel.receive(turn).map_err(lost)?;
    let ToMember::Listen(address) = said else { return Err(refusal(said)) };
    let listening = Listening::bind(address)?;
    channel.send(&ToCoordinator::Listening(listening.address()), soon()).map_err(lost)?;
    let said = channel.receive(soon()).map_err(lost)?;
    let ToMember::Seat(seat) = said else { return Err(refusal(said)) };
    let keys = Keys { machine: card.machine, secret: card.secret.clone() };
    let mesh = match listening.join(&seat, &keys) {
        Ok(mesh) => mesh,
        Err(fault) => {
            let line = fault.into_line();
            // Rank 0 notices all the same when it does not hear that.
            let _ = channel.send(&ToCoordinator::Failed(line.clone()), soon());
            return Err(line);
        }
    };
    channel.send(&ToCoordinator::Connected, soon()).map_err(lost)?;
    let said = channel.receive(soon()).map_err(lost)?;
    if said != ToMember::Go {
        return Err(refusal(said));
    }
    Ok(take_part(*seat, mesh, channel, args))
}

/// Runs this rank's share until it leaves or the machine ends.
fn take_part(seat: Seat, mesh: crate::wireup::mesh::Mesh, channel: Channel, args: &RunArgs) -> ExitCode {
    let Ok(rank) = u16::try_from(seat.rank) else { return crate::refuse("rank 0 gives a seat that is none") };
    let Some((cluster, latecomers)) = others::joined_cluster(Rank(rank), &seat, mesh) else {
        return crate::refuse("there is no channel to the other ranks");
    };
    let hosts = seat.hosts.into_iter().collect();
    let share = member::Share { rank, kvm: args.kvm.clone(), settings: seat.settings, hosts, cluster, latecomers };
    let terms = member::Terms { joins: true, leaves: true, grace: args.cluster.grace() };
    member::run(share, channel, terms)
}

/// Where rank 0 is and what proves to belong to its machine: in the address file, or of a host and port with the secret in that of `--address-file`.
pub(crate) fn card(target: &str, address_file: Option<&Path>) -> Result<Card, String> {
    let is_file = Path::new(target).exists() || target.contains('/');
    let Some(addresses) = (!is_file).then(|| addresses(target)).flatten() else {
        return read_card(Path::new(target));
    };
    let Some(path) = address_file else {
        return Err(
            "a host and port alone prove nothing: give --address-file FILE with a copy of the machine's".to_owned()
        );
    };
    Ok(Card { addresses: addresses?, ..read_card(path)? })
}

/// Where rank 0 is and what proves to belong to its machine, of an address file.
pub(crate) fn read_card(path: &Path) -> Result<Card, String> {
    address_file::read(path).map_err(|error| format!("address file {}: {error}", path.display()))
}

/// The addresses that `host:port` means; nothing when it has no such form.
fn addresses(target: &str) -> Option<Result<Vec<SocketAddr>, String>> {
    let (host, port) = target.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found = std::net::ToSocketAddrs::to_socket_addrs(&(host, port)).map(Iterator::collect::<Vec<_>>);
    Some(match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{host} has no address")),
        Err(error) => Err(format!("{host} is not known: {error}")),
    })
}

fn refusal(said: ToMember) -> String {
    match said {
        ToMember::Refused { line, .. } => line,
        ToMember::Bye { .. } => "the machine has ended".to_owned(),
        ToMember::Listen(_)
        | ToMember::Roster(_)
        | ToMember::Go
        | ToMember::Wait
        | ToMember::Seat(_)
        | ToMember::Joined => "rank 0 speaks out of turn: use the same vincs everywhere".to_owned(),
    }
}

fn soon() -> Instant {
    Instant::now() + STEP_TIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_file_or_a_host_and_port() {
        assert_eq!(addresses("127.0.0.1:4000").unwrap().unwrap(), ["127.0.0.1:4000".parse().unwrap()]);
        assert_eq!(addresses("[::1]:4000").unwrap().unwrap(), ["[::1]:4000".parse().unwrap()]);
        assert!(addresses("address").is_none() && addresses("host:").is_none() && addresses("host:70000").is_none());
        let missing = card("/no/such/file", None).unwrap_err();
        assert!(missing.starts_with("address file /no/such/file: it is not there"), "{missing}");
        let alone = card("127.0.0.1:4000", None).unwrap_err();
        assert!(alone.contains("--address-file"), "{alone}");
        let name = card("there-is-no-such-file", None).unwrap_err();
        assert!(name.contains("there-is-no-such-file: it is not there"), "{name}");
    }

    #[test]
    fn a_host_and_port_go_before_what_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("address");
        let written = crate::wireup::card::tests::card(&["10.0.0.1:1"]);
        let _published = address_file::Published::write(&path, &written).unwrap();
        let read = card("127.0.0.1:4000", Some(&path)).unwrap();
        assert_eq!((read.machine, read.addresses), (written.machine, vec!["127.0.0.1:4000".parse().unwrap()]));
        assert_eq!(card(path.to_str().unwrap(), None).unwrap().addresses, written.addresses);
    }
}
