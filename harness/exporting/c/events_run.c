/* Reads events from standard input and writes a line for each recording: class, timesteps, spikes (or sum) of each output, in the
   order of Python's (C, H, W). An event is four whole numbers of 16 bits, little-endian: x, y, channel (polarity; of an input
   without places the neuron), timestep. Events come in the order of their timesteps. Four times 65535 ends a recording, and so does
   an event whose timestep is smaller than that before.
   ./run [TIMESTEPS] < events; without TIMESTEPS a recording ends with its last event */
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 65536 }; /* events of a timestep */

static size_t memory[(NETWORK_BYTES) / sizeof(size_t) + 1];
static int32_t events[MOST], waiting;

static int refused(const char *why, unsigned long number)
{
    fprintf(stderr, "event %lu: %s\n", number, why);
    return 2;
}

/* Take the timesteps before this one; those events that wait arrive in the first. */
static void advance(NetworkState *run, unsigned long timestep)
{
    for (; run->steps < timestep; waiting = 0) {
        network_arrive(run, events, waiting);
        network_step(run);
    }
}

/* The recording ends. */
static void answer(NetworkState *run, unsigned long timesteps)
{
    int32_t i;
    advance(run, timesteps);
    printf("%d %lu", network_answer(run), (unsigned long)run->steps);
    for (i = 0; i < run->classes; i++)
        printf(" %.9g", (double)run->logits[i]);
    putchar('\n');
    network_reset(run, 0, 0, 0);
}

int main(int argc, char **argv)
{
    const NetworkNode *input = &network_tables.node[0];
    const unsigned long timesteps = argc > 1 ? strtoul(argv[1], 0, 10) : 0;
    NetworkState *const run = network_begin(&network_tables, &network_defaults, memory, sizeof memory);
    uint8_t raw[8];
    unsigned long number = 0, last = 0;
    int begun = 0;
    size_t got;
    network_reset(run, 0, 0, 0);
    for (; (got = fread(raw, 1, sizeof raw, stdin)) == sizeof raw; number++) {
        const int32_t x = raw[0] | raw[1] << 8, y = raw[2] | raw[3] << 8, channel = raw[4] | raw[5] << 8;
        const unsigned long step = (unsigned long)(raw[6] | raw[7] << 8);
        if ((x & y & channel & (int32_t)step) == 65535) {
            answer(run, timesteps ? timesteps : last + 1);
            last = begun = 0;
            continue;
        }
        if (x >= input->width || y >= input->height || channel >= input->channels)
            return refused("it lies outside of the input", number);
        if (timesteps && step >= timesteps)
            return refused("its timestep is not below TIMESTEPS", number);
        if (step < last)
            answer(run, timesteps ? timesteps : last + 1);
        advance(run, step);
        if (waiting == MOST)
            return refused("too many in one timestep", number);
        events[waiting++] = (y * input->width + x) * input->channels + channel;
        last = step;
        begun = 1;
    }
    if (got)
        return refused("it has less than 8 bytes", number);
    if (begun)
        answer(run, timesteps ? timesteps : last + 1);
    return 0;
}
