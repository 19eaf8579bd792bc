//! A run as one of several ranks: the wire-up, then this rank's share of the machine.

pub(crate) mod gather;
pub(crate) mod join;
pub(crate) mod member;
pub(crate) mod others;
pub(crate) mod settings;
pub(crate) mod steward;
mod welcome;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use vincs_slurm::Job;
use vincs_vmm::cluster::{Cluster, Features};

use crate::cli::RunArgs;
use crate::cli::cluster::{TransportArg, default_wireup_timeout};
use crate::host::{self, Place, paging};
use crate::input::machine_size::DEFAULT_MEMORY;
use crate::prepare;
use crate::rank::RankInfo;
use crate::run::ending::STATUS_BAD_INPUT;
use crate::stats::Clock;
use crate::wireup::coordinator::Present;
use crate::wireup::difference::who;
use crate::wireup::mesh::CONTROL_CLASSES;
use crate::wireup::message::{Argument, Hello, Settings};
use crate::wireup::selection::{self, Candidate, Choice, Probe};
use crate::wireup::{self, HEARD_TIME, Means, Own, Refusal, network, rdma};
pub(crate) use others::Others;
use steward::Entrance;

/// A command line as far as it could be read: the options and what is compared, or what is wrong with it.
pub(crate) type Asked = Result<(RunArgs, Vec<Argument>), String>;

/// Runs this rank to its end; its exit status.
pub(crate) fn run(info: RankInfo, job: Option<&Job>, asked: Asked, clock: &Arc<Clock>) -> ExitCode {
    let place = Place::here();
    let means = means(&asked, job);
    if info.rank == 0 { first(info, &place, &means, asked, clock) } else { member(info, &place, &means, asked) }
}

/// How the ranks find each other; by the defaults when the command line cannot be read, to tell the others.
fn means(asked: &Asked, job: Option<&Job>) -> Means {
    match asked {
        Ok((args, _)) => {
            let address_file = args.cluster.address_file.clone().or_else(|| slurms_file(job));
            Means { address_file, timeout: args.cluster.wireup_timeout() }
        }
        Err(_) => Means { address_file: slurms_file(job), timeout: default_wireup_timeout() },
    }
}

/// The address file of a Slurm step, of which there is one with this number only, in the directory that it was started in.
fn slurms_file(job: Option<&Job>) -> Option<PathBuf> {
    job?.step_name().map(|name| PathBuf::from(format!(".vincs-{name}")))
}

/// What this rank can do by RDMA; nothing if nobody wants to know. As many channel classes are tried as there are at most: rank 0 may
/// take fewer, as other ranks have fewer processors.
fn rdma_probe(info: RankInfo, args: &RunArgs) -> Option<Probe> {
    let cluster = &args.cluster;
    if cluster.transport == Some(TransportArg::Tcp) {
        return None;
    }
    let ranks_here = if info.one_host { info.ranks } else { 1 };
    let shards = settings::shards(cluster, host::available_cpus() / ranks_here);
    let classes = CONTROL_CLASSES + usize::try_from(shards).unwrap_or(usize::MAX);
    // No machine has more memory by itself, and so none larger windows.
    let windows = settings::window_bytes(args.mem.unwrap_or(DEFAULT_MEMORY), info.ranks, shards);
    // Without them no network of a device is known.
    let interfaces = network::addresses().unwrap_or_default();
    Some(rdma::probe(u16::try_from(info.ranks).unwrap_or(u16::MAX), classes, windows, &interfaces))
}

/// What connects the ranks; says what is worth a word about it.
fn transport(asked: Option<TransportArg>, present: &[Present<'_>]) -> Result<Choice, String> {
    let candidates: Vec<_> = present
        .iter()
        .map(|Present { introduction, hello, place }| Candidate {
            who: who(introduction),
            probe: hello.rdma.as_ref(),
            net_if: hello.net_if,
            place: *place,
        })
        .collect();
    let (choice, note) = selection::decide(asked, &candidates).map_err(|error| error.to_string())?;
    if let Some(note) = note {
        crate::say(&note);
    }
    Ok(choice)
}

/// What is to connect a machine with so many bytes of relaxed memory, which does without a NIC's words for now.
fn transport_for(asked: Option<TransportArg>, relaxed: u64) -> Result<Option<TransportArg>, String> {
    match asked {
        Some(TransportArg::Rdma) if relaxed > 0 => {
            Err("--relaxed on several ranks goes over TCP only: use --transport tcp, or leave one of the two away"
                .into())
        }
        Some(TransportArg::Auto) | None if relaxed > 0 => Ok(Some(TransportArg::Tcp)),
        asked => Ok(asked),
    }
}

/// What this rank says of itself. What is wrong here is said by rank 0.
fn hello(info: RankInfo, place: &Place, asked: &Asked, problem: Option<String>) -> Hello {
    let (args, arguments) = asked.as_ref().map_or((None, Vec::new()), |(args, list)| (Some(args), list.clone()));
    let rdma = args.and_then(|args| rdma_probe(info, args));
    let hello = hello_by(args, place);
    Hello { arguments, rdma, problem: problem.or(hello.problem), ..hello }
}

/// What a rank that joins a machine says of itself.
pub(crate) fn hello_of(args: &RunArgs, place: &Place) -> Hello {
    hello_by(Some(args), place)
}

fn hello_by(args: Option<&RunArgs>, place: &Place) -> Hello {
    let net_if = args.and_then(|args| args.cluster.net_if.as_deref()).map(network::chosen).transpose();
    let (net_if, no_network) = match net_if {
        Ok(address) => (address, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let features = args.map(|args| Features::probe(&args.kvm).map_err(|error| error.to_string())).transpose();
    let (features, no_kvm) = match features {
        Ok(features) => (features, None),
        Err(error) => (None, Some(error)),
    };
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Hello {
        protocols: vec![
            ("coherence".to_owned(), vincs_coherence::codec::VERSION.into()),
            ("control".to_owned(), vincs_vmm::cluster::VERSION.into()),
            ("transport".to_owned(), vincs_transport_tcp::auth::PROTOCOL_VERSION),
        ],
        arguments: Vec::new(),
        boot_id: place.boot_id.clone(),
        memory: host::total_memory(&meminfo).unwrap_or_default(),
        processors: host::available_cpus(),
        busy: host::busy(&std::fs::read_to_string("/proc/loadavg").unwrap_or_default()).unwrap_or_default(),
        features,
        net_if,
        rdma: None,
        problem: no_network.or(no_kvm).or_else(paging::without_nested_paging),
    }
}

fn first(info: RankInfo, place: &Place, means: &Means, asked: Asked, clock: &Arc<Clock>) -> ExitCode {
    let prepared = match &asked {
        Ok((args, _)) => prepare::prepare(args, info.ranks).map_err(|error| error.to_string()),
        Err(line) => Err(line.clone()),
    };
    let own = Own::new(info, place, hello(info, place, &asked, prepared.as_ref().err().cloned()));
    let decide = |present: &[Present<'_>]| match (&asked, &prepared) {
        (Ok((args, _)), Ok(plan)) => {
            let settings = settings::decide(args, plan.machine.size, present).map_err(|error| error.to_string())?;
            let transport = transport(transport_for(args.cluster.transport, settings.relaxed)?, present)?;
            let slots = settings::window_slots(settings.memory, info.ranks, settings.shards);
            let window_slots = if matches!(transport, Choice::Rdma(_)) { slots } else { 0 };
            Ok(Settings { transport, window_slots, races: plan.looks_for_races, ..settings })
        }
        (Err(line), _) | (_, Err(line)) => Err(line.clone()),
    };
    let met = wireup::as_rank_0(info, place, &own, means, crate::say, decide);
    match (met, asked, prepared) {
        (Ok(machine), Ok((args, _)), Ok(plan)) => {
            let wireup::Machine { mesh, roster, channels, doorstep, visitors } = machine;
            match others::cluster(0, &roster, mesh) {
                Some((cluster, latecomers)) => {
                    let cluster = Cluster { placement: args.cluster.placement(), ..cluster };
                    let desk = doorstep.as_ref().map(|doorstep| doorstep.desk.clone()).unwrap_or_default();
                    let others = Others::new(cluster, &roster, channels).gathering(args.cluster.gather).at(desk);
                    if let Some(visitors) = visitors {
                        others.set_entrance(Entrance { visitors, own: own.hello, roster, latecomers });
                    }
                    let status = crate::run_plan(&args, plan, Some(others), clock);
                    drop(doorstep);
                    status
                }
                None => crate::refuse("there is no channel to the other ranks"),
            }
        }
        (Err(refusal @ Refusal { said: true, .. }), _, _) => without_a_machine(&refusal),
        // What is wrong here is said even when the others cannot be told.
        (_, Err(line), _) | (_, _, Err(line)) => {
            without_a_machine(&Refusal::new(format!("{}: {line}", who(&own.introduction))))
        }
        (Err(refusal), _, _) => without_a_machine(&refusal),
    }
}

/// There is no machine with this rank: says why, unless rank 0 has, and stays until that has been heard, whoever said it.
fn without_a_machine(refusal: &Refusal) -> ExitCode {
    if !refusal.said {
        crate::say(&refusal.line);
    }
    thread::sleep(HEARD_TIME);
    ExitCode::from(STATUS_BAD_INPUT)
}

fn member(info: RankInfo, place: &Place, means: &Means, asked: Asked) -> ExitCode {
    let own = Own::new(info, place, hello(info, place, &asked, asked.as_ref().err().cloned()));
    match (wireup::as_member(info, place, &own, means), asked) {
        (Ok(machine), Ok((args, _))) => started(u16::try_from(info.rank).unwrap_or(u16::MAX), &args, machine),
        (Err(refusal), _) => without_a_machine(&refusal),
        // Rank 0 refuses a rank whose command line cannot be read.
        (Ok(_), Err(line)) => without_a_machine(&Refusal::new(line)),
    }
}

/// Runs the share of a rank that has started the machine with the others.
fn started(rank: u16, args: &RunArgs, machine: wireup::Machine) -> ExitCode {
    let wireup::Machine { mesh, roster, mut channels, .. } = machine;
    match (channels.pop(), others::cluster(rank, &roster, mesh)) {
        (Some(zero), Some((cluster, latecomers))) => {
            let (settings, hosts) = (roster.settings, (0..).zip(roster.hosts).collect());
            let (kvm, leaves) = (args.kvm.clone(), args.cluster.leaves_on_term());
            let terms = member::Terms { joins: false, leaves, grace: args.cluster.grace() };
            member::run(member::Share { rank, kvm, settings, hosts, cluster, latecomers }, zero, terms)
        }
        _ => crate::refuse("there is no channel to the other ranks"),
    }
}
