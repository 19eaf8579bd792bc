//! One writer, and no reader beside it, in what the guest's processors can do on all ranks. A rank that has crashed
//! counts with what it last could do: nobody may take its pages without its answer.

use crate::id::{Access, Page, Rank};

use super::super::rank::{Site, ranks};
use super::{Checker, Violation};

/// Checks a page.
///
/// # Errors
/// [`Violation`] naming who can write and who else can read.
pub fn check(sites: &[Site], page: Page) -> Result<(), Violation> {
    let mut writer: Option<Rank> = None;
    let mut other: Option<Rank> = None;
    for (rank, site) in ranks(sites) {
        match site.memory.access(page) {
            None => {}
            Some(Access::Write) if writer.is_none() => writer = Some(rank),
            Some(Access::Read | Access::Write) => other = Some(rank),
        }
    }
    match (writer, other) {
        (Some(writer), Some(other)) => {
            let what = format!("rank {} can write it while rank {} has it too", writer.0, other.0);
            Err(Violation::of_page(Checker::Exclusive, page, what))
        }
        (None, _) | (_, None) => Ok(()),
    }
}
