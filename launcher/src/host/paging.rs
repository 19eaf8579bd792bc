//! Whether KVM has nested paging here.
//!
//! Without it KVM makes page tables of its own from the guest's ("shadow" page tables) and keeps them right by write-protecting the guest's tables on this host. What
//! another rank writes into a table comes by no such write, so the processor here would go on by the table as it was: a guest that is wrong without a word.

use std::fs;
use std::path::Path;

/// KVM's modules, the parameter that tells, and what turns it on again.
const PARAMETERS: [(&str, &str); 2] = [("kvm_intel", "ept"), ("kvm_amd", "npt")];

/// The line that says it, on a host whose KVM is known to have none.
pub(crate) fn without_nested_paging() -> Option<String> {
    without(Path::new("/sys/module"))
}

fn without(modules: &Path) -> Option<String> {
    let (module, parameter) = PARAMETERS.into_iter().find(|(module, parameter)| {
        let value = fs::read_to_string(modules.join(module).join("parameters").join(parameter));
        value.is_ok_and(|value| matches!(value.trim(), "N" | "0"))
    })?;
    Some(format!(
        "KVM does without nested paging ({module}.{parameter}=0), and then does not see what other ranks write to the guest's page tables: \
         modprobe -r {module}; modprobe {module} {parameter}=1"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (module, parameter, value) in files {
            let parameters = dir.path().join(module).join("parameters");
            fs::create_dir_all(&parameters).unwrap();
            fs::write(parameters.join(parameter), value).unwrap();
        }
        dir
    }

    #[test]
    fn kvm_without_nested_paging_is_named_with_the_way_out() {
        for off in ["N\n", "0\n"] {
            let line = without(modules(&[("kvm_amd", "npt", off)]).path()).unwrap();
            assert!(line.contains("kvm_amd.npt=0") && line.ends_with("modprobe kvm_amd npt=1"), "{line}");
        }
        let both = modules(&[("kvm_intel", "ept", "N\n"), ("kvm_amd", "npt", "Y\n")]);
        assert!(without(both.path()).unwrap().contains("kvm_intel.ept=0"));
    }

    #[test]
    fn kvm_with_it_and_kvm_of_another_kind_are_taken() {
        for files in
            [&[("kvm_intel", "ept", "Y\n")][..], &[("kvm_amd", "npt", "1\n")], &[("kvm_other", "npt", "N\n")], &[]]
        {
            assert_eq!(without(modules(files).path()), None, "{files:?}");
        }
    }
}
