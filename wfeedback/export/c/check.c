/* Runs the inputs of golden.c, images or recordings of events, and compares every open pixel, every spike and the logits with those
   of the network that this one was made of. Exit status 0: equal; 1: the first difference is named. */
#include "board.h"
#include "golden.c"
#include "weights.h"

#include <stdio.h>

static const char *const what = NETWORK_EVENTS ? "recording" : "image";
static size_t memory[(NETWORK_BYTES) / sizeof(size_t) + 1];
static NetworkState *run;
static const int32_t *listed = golden_lists; /* what comes next */
static const float *logits = golden_logits;

/* Whether the list goes on with this number. It has an event as often as it arrives. */
static int is_listed(int32_t number)
{
    const int is_next = *listed == number;
    while (*listed == number)
        listed++;
    return is_next;
}

/* 1 where the input runs as golden.c says. */
static int equal(int input)
{
    int step, layer;
    int32_t i;
    COUNTED(network_reset(run, golden_key[0], golden_key[1], golden_numbers[input]));
    if (!NETWORK_EVENTS)
        COUNTED(network_show(run, golden_pixels + (int32_t)input * NETWORK_PIXELS));
    for (step = 0; step < NETWORK_TIMESTEPS; step++) {
        for (i = 0; i < NETWORK_PIXELS; i++)
            if (is_listed(i) == run->is_open[i]) {
                printf("differs: %s %d, before timestep %d, pixel %ld is %s here alone; prediction %.9g of %.9g\n", what, input, step,
                       (long)i, run->is_open[i] ? "open" : "blocked", (double)network_prediction(run, i),
                       (double)network_pixel(run, i));
                return 0;
            }
        listed++;
        for (i = 0; NETWORK_EVENTS && listed[i] >= 0;)
            i++;
        if (NETWORK_EVENTS)
            COUNTED(network_arrive(run, listed, i));
        COUNTED(network_step(run));
        for (layer = 0; layer < NETWORK_LAYERS; layer++, listed++)
            for (i = 0; i < network_layer_size(run, layer); i++) {
                const int here = network_spiked(run, layer, i);
                if (is_listed(i) != here) {
                    printf("differs: %s %d, timestep %d, layer %s, neuron %ld: it %s here; potential after the timestep %.9g\n", what,
                           input, step, network_layer_name(run, layer), (long)i, here ? "spiked" : "did not spike",
                           (double)network_potential(run, layer, i));
                    return 0;
                }
            }
        for (i = 0; i < NETWORK_CLASSES; i++, logits++) {
            const double here = run->logits[i], off = here > *logits ? here - *logits : *logits - here;
            if (!(off <= golden_tolerance * (1 + (*logits > 0 ? *logits : -*logits)))) {
                printf("differs: %s %d, timestep %d, logit %ld is %.9g here and %.9g in golden.c\n", what, input, step, (long)i, here,
                       (double)*logits);
                return 0;
            }
        }
    }
    return 1;
}

int main(void)
{
    int input;
    board_paint();
    run = network_begin(&network_tables, &network_defaults, memory, sizeof memory);
    if (!run) {
        printf("differs: the network does not begin, see network_begin in network.h\n");
        return 1;
    }
    for (input = 0; input < golden_inputs; input++) {
        if (!equal(input))
            return 1;
        board_next();
    }
    board_print(sizeof memory, what);
    printf("equal: %d %ss, %d timesteps each, spike for spike\n", golden_inputs, what, NETWORK_TIMESTEPS);
    return 0;
}
