//! Crates depend on each other only as the design has it: a table of what each may use, against `cargo metadata`.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use vincs_tests::workspace_root;

/// What each crate of the workspace may depend on. A crate that does not exist yet may have its row already.
///
/// The launcher puts the parts together; the vmm knows neither it nor a concrete transport; transports know coherence's port and
/// nothing else; nothing depends on benchmarks or tests.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "vincs-launcher",
        &[
            "vincs-coherence",
            "vincs-guest-image",
            "vincs-guest-protocol",
            // Its tests of `vincs ctl` alone.
            "vincs-micro-guest",
            "vincs-slurm",
            "vincs-transport-rdma",
            "vincs-transport-tcp",
            "vincs-vmm",
        ],
    ),
    ("vincs-guest", &["vincs-guest-core"]),
    ("vincs-guest-commands", &[]),
    ("vincs-guest-core", &["vincs-guest-commands"]),
    ("vincs-guest-image", &[]),
    ("vincs-guest-init", &["vincs-guest-protocol"]),
    ("vincs-guest-protocol", &[]),
    ("vincs-mpi", &[]),
    // Numbers alone, that the guest library has, too.
    ("vincs-vmm", &["vincs-coherence", "vincs-guest-commands"]),
    ("vincs-coherence", &[]),
    ("vincs-transport-rdma", &["vincs-coherence"]),
    ("vincs-transport-tcp", &["vincs-coherence"]),
    ("vincs-slurm", &[]),
    (
        "vincs-benchmarks",
        &[
            "vincs-coherence",
            "vincs-guest-image",
            "vincs-guest-protocol",
            "vincs-micro-guest",
            "vincs-npb",
            "vincs-testbed",
            "vincs-transport-rdma",
            "vincs-transport-tcp",
            "vincs-vmm",
        ],
    ),
    ("vincs-npb", &["vincs-coherence", "vincs-guest-core", "vincs-transport-tcp", "vincs-vmm"]),
    // Its tests play a device.
    ("vincs-omp", &["vincs-guest", "vincs-guest-commands"]),
    ("vincs-testbed", &["vincs-guest-image"]),
    ("vincs-micro-guest", &["vincs-coherence", "vincs-micro-guest-payload", "vincs-transport-tcp", "vincs-vmm"]),
    ("vincs-micro-guest-payload", &[]),
    (
        "vincs-tests",
        &[
            "vincs-coherence",
            "vincs-guest",
            "vincs-guest-image",
            "vincs-guest-protocol",
            "vincs-micro-guest",
            "vincs-testbed",
            "vincs-transport-rdma",
            "vincs-transport-tcp",
            "vincs-vmm",
        ],
    ),
];

/// Each crate of a workspace with the workspace's crates that it depends on, in whatever way.
type Edges = BTreeMap<String, Vec<String>>;

/// Empty when `metadata` is not what `cargo metadata` prints.
fn edges(metadata: &Value) -> Edges {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let packages = list(&metadata["packages"]);
    let members: Vec<String> = packages.iter().map(name).collect();
    let used =
        |package: &Value| list(&package["dependencies"]).iter().map(name).filter(|to| members.contains(to)).collect();
    packages.iter().map(|package| (name(package), used(package))).collect()
}

fn violations(edges: &Edges, may_use: &[(&str, &[&str])]) -> Vec<String> {
    let mut found = Vec::new();
    for (from, used) in edges {
        let Some((_, allowed)) = may_use.iter().find(|(name, _)| name == from) else {
            found.push(format!("{from} has no row in the table of {}", file!()));
            continue;
        };
        let wrong = used.iter().filter(|to| !allowed.contains(&to.as_str()));
        found.extend(wrong.map(|to| format!("{from} must not depend on {to}")));
    }
    found
}

#[test]
fn crates_depend_on_each_other_as_designed() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(workspace_root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let edges = edges(&serde_json::from_slice(&output.stdout).unwrap());
    assert!(edges["vincs-launcher"].contains(&"vincs-vmm".to_owned()), "the edges were not read: {edges:?}");
    assert_eq!(violations(&edges, MAY_USE), [""; 0]);
}

#[test]
fn a_wrong_edge_and_a_crate_without_a_row_are_found() {
    let metadata = serde_json::json!({"packages": [
        {"name": "low", "dependencies": [{"name": "high"}, {"name": "serde"}]},
        {"name": "high", "dependencies": [{"name": "low"}]},
        {"name": "new", "dependencies": []},
    ]});
    let found = violations(&edges(&metadata), &[("low", &[]), ("high", &["low"])]);
    assert_eq!(found[0], "low must not depend on high");
    assert!(found[1].starts_with("new has no row"));
    assert_eq!(found.len(), 2);
}

#[test]
fn nothing_may_use_benchmarks_or_tests_and_the_vmm_no_transport() {
    for (from, allowed) in MAY_USE {
        for never in ["vincs-benchmarks", "vincs-tests", "vincs-launcher"] {
            assert!(!allowed.contains(&never), "{from} must not be allowed {never}");
        }
    }
    let (_, vmm) = MAY_USE.iter().find(|(name, _)| *name == "vincs-vmm").unwrap();
    let transport = vmm.iter().find(|name| name.starts_with("vincs-transport"));
    assert_eq!(transport, None, "the vmm knows the port alone");
}
