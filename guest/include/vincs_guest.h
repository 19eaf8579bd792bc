// For programs in a vincs guest: relaxed memory, and a team of threads on all processors.
//
// What a member writes, others are sure to see after both have passed a barrier, after it has unlocked a lock that they then
// lock, and after the run has ended. Before that they may see it or not.

#ifndef VINCS_GUEST_H
#define VINCS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// How a call went.
typedef enum vincs_status {
  // As asked.
  VINCS_STATUS_OK = 0,
  // A pointer is null, or a number is out of its range.
  VINCS_STATUS_INVALID = 1,
  // The device of the relaxed memory cannot be opened or mapped.
  VINCS_STATUS_OPEN = 2,
  // Another program uses the device.
  VINCS_STATUS_IN_USE = 3,
  // Not so much relaxed memory is left.
  VINCS_STATUS_OUT_OF_RELAXED = 4,
  // More members than processors, or none.
  VINCS_STATUS_TEAM_SIZE = 5,
  // Threads or processors cannot be had.
  VINCS_STATUS_THREADS = 6,
  // The team is running something already.
  VINCS_STATUS_BUSY = 7,
  // There is no lock of this number.
  VINCS_STATUS_NO_SUCH_LOCK = 8,
  // The member has the lock already.
  VINCS_STATUS_HELD = 9,
  // The member does not have the lock.
  VINCS_STATUS_NOT_HELD = 10,
} vincs_status;

// One of a team, in the function that it runs.
typedef struct vincs_member vincs_member;

// The relaxed memory of the machine, as this process has it. It is given back when this and all arrays are gone.
typedef struct vincs_relaxed vincs_relaxed;

// A team, for calls that may come from anywhere.
typedef struct vincs_team vincs_team;

// What a member runs, with itself and the caller's pointer. An exception that leaves it ends the program.
typedef void (*vincs_member_body)(const struct vincs_member *member, void *context);

// What is run for each number of a range, with the caller's pointer. An exception that leaves it ends the program.
typedef void (*vincs_loop_body)(size_t index, void *context);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What went wrong in this thread's last call that did not return `VINCS_STATUS_OK`, as one line. It is valid until the next such call.
const char *vincs_error(void);

// Opens the relaxed memory: the device that `VINCS_RELAXED` names, else ordinary memory.
//
// # Safety
// `relaxed` is null or can be written.
enum vincs_status vincs_relaxed_open(struct vincs_relaxed **relaxed);

// Gives the relaxed memory back, with all that was allocated in it. Null is nothing.
//
// # Safety
// `relaxed` is from [`vincs_relaxed_open`]; nothing of it is used any more.
void vincs_relaxed_close(struct vincs_relaxed *relaxed);

// Whether the relaxed memory is a device, and not ordinary memory.
//
// # Safety
// `relaxed` is null or from [`vincs_relaxed_open`].
bool vincs_relaxed_is_device(const struct vincs_relaxed *relaxed);

// Bytes of the relaxed memory that are not allocated yet.
//
// # Safety
// `relaxed` is null or from [`vincs_relaxed_open`].
size_t vincs_relaxed_left(const struct vincs_relaxed *relaxed);

// Allocates zero bytes at the start of a page of their own. They are given back by [`vincs_relaxed_close`].
//
// # Safety
// `relaxed` is null or from [`vincs_relaxed_open`]; `start` is null or can be written.
enum vincs_status vincs_relaxed_allocate(const struct vincs_relaxed *relaxed, size_t bytes, void **start);

// What others have released before is seen by this thread from here on. For programs that synchronise in their own way, over ordinary
// memory; a team's barriers, locks and reductions imply it.
//
// # Safety
// `relaxed` is null or from [`vincs_relaxed_open`].
void vincs_acquire(const struct vincs_relaxed *relaxed);

// What this thread has written is seen by who acquires after. It comes before the thread tells others that it has written.
//
// # Safety
// As for [`vincs_acquire`].
void vincs_release(const struct vincs_relaxed *relaxed);

// Starts a team of so many members, each on a processor of its own; with 0, one on each processor that the program may run on.
//
// # Safety
// `team` is null or can be written.
enum vincs_status vincs_team_start(uint32_t members,
                                   struct vincs_team **team);

// Ends a team. Null is nothing.
//
// # Safety
// `team` is from [`vincs_team_start`], runs nothing, and is not used any more.
void vincs_team_end(struct vincs_team *team);

// Runs a function on every member, with the caller's pointer, and waits until all have returned.
//
// # Safety
// `team` is null or from [`vincs_team_start`]; `body` can use `context` on all members at once.
enum vincs_status vincs_team_run(const struct vincs_team *team, vincs_member_body body, void *context);

// Runs a function for every number from `first` to before `end`, in parallel, with the caller's pointer: each member has an even part of them.
//
// # Safety
// `team` is null or from [`vincs_team_start`]; `body` can use `context` on all members at once.
enum vincs_status vincs_team_for_each(const struct vincs_team *team,
                                      size_t first,
                                      size_t end,
                                      vincs_loop_body body,
                                      void *context);

// The member's number, from 0.
//
// # Safety
// `member` is what the function of a run was called with, in that call.
uint32_t vincs_member_number(const struct vincs_member *member);

// Number of members of the member's team.
//
// # Safety
// As for [`vincs_member_number`].
uint32_t vincs_member_count(const struct vincs_member *member);

// The member's part of the numbers from `*first` to before `*end`, which it replaces: parts are contiguous, in the order of members.
//
// # Safety
// As for [`vincs_member_number`]; `first` and `end` are null or can be read and written, and are two numbers.
enum vincs_status vincs_member_part(const struct vincs_member *member,
                                    size_t *first,
                                    size_t *end);

// Waits until all members are here. What each wrote before, all see after.
//
// # Safety
// As for [`vincs_member_number`].
void vincs_barrier(const struct vincs_member *member);

// Takes the lock of this number, 0 to 1023, when it is this member's turn.
//
// # Safety
// As for [`vincs_member_number`].
enum vincs_status vincs_lock(const struct vincs_member *member, uint32_t number);

// Gives the lock of this number back.
//
// # Safety
// As for [`vincs_member_number`].
enum vincs_status vincs_unlock(const struct vincs_member *member, uint32_t number);

// The sum of all members' values, added in the order of members. All members call it; it is a barrier too.
//
// # Safety
// As for [`vincs_member_number`].
double vincs_sum_double(const struct vincs_member *member, double value);

// The largest of all members' values. All members call it; it is a barrier too.
//
// # Safety
// As for [`vincs_member_number`].
double vincs_max_double(const struct vincs_member *member, double value);

// The sum of all members' values modulo 2^64. All members call it; it is a barrier too.
//
// # Safety
// As for [`vincs_member_number`].
int64_t vincs_sum_int64(const struct vincs_member *member, int64_t value);

// The largest of all members' values. All members call it; it is a barrier too.
//
// # Safety
// As for [`vincs_member_number`].
int64_t vincs_max_int64(const struct vincs_member *member, int64_t value);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VINCS_GUEST_H */
