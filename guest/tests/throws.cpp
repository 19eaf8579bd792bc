// throws run|each: a function of a team that throws what it does not catch. It has to end the program, and not by chance.
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "vincs_guest.h"

namespace {

// To see whether the stack is unwound into the library.
struct Leaves {
    ~Leaves() { std::puts("left"); }
};

void member(const vincs_member *, void *) { throw std::runtime_error("thrown by a member"); }

void index(size_t, void *) { throw std::runtime_error("thrown by a loop"); }

void catches(const vincs_member *, void *) {
    try {
        Leaves leaves;
        throw std::runtime_error("caught");
    } catch (const std::runtime_error &error) {
        std::puts(error.what());
    }
}

}  // namespace

int main(int, char **arguments) {
    vincs_team *team;
    if (vincs_team_start(1, &team) != VINCS_STATUS_OK)
        return 1;
    vincs_team_run(team, catches, nullptr);
    std::fflush(stdout);
    if (std::strcmp(arguments[1], "run") == 0)
        vincs_team_run(team, member, nullptr);
    else
        vincs_team_for_each(team, 0, 1, index, nullptr);
    std::puts("went on");
    return 0;
}
