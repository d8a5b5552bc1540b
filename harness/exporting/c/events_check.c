/* Runs the recordings of golden.c and compares which neurons spike, layer by layer, and the outputs, with those of the network that
   this one was made of. Exit status 0: equal; 1: the first difference is named. */
#include "board.h"
#include "golden.c"
#include "weights.h"

#include <stdio.h>

static size_t memory[(NETWORK_BYTES) / sizeof(size_t) + 1];

int main(void)
{
    NetworkState *run;
    const int32_t *first = golden_first;
    const int32_t *spikes = golden_fired; /* numbers of the neurons that spike, -1 behind those of a layer */
    const float *logits = golden_logits;
    int recording, step, layer;
    int32_t i;
    board_paint();
    run = network_begin(&network_tables, &network_defaults, memory, sizeof memory);
    for (recording = 0; recording < golden_recordings; recording++, first++) {
        COUNTED(network_reset(run, 0, 0, 0));
        for (step = 0; step < golden_timesteps; step++, first++) {
            COUNTED(network_arrive(run, golden_events + first[0], first[1] - first[0]));
            COUNTED(network_step(run));
            for (layer = 1; layer < NETWORK_LAYERS; layer++) {
                for (i = 0; i < network_layer_size(run, layer); i++) {
                    const int there = *spikes == i;
                    if (network_spiked(run, layer, i) != there) {
                        printf("differs: recording %d, timestep %d, node %s, neuron %ld: it %s here\n", recording, step,
                               network_layer_name(run, layer), (long)i, there ? "did not spike" : "spiked");
                        return 1;
                    }
                    spikes += there;
                }
                spikes++;
            }
            for (i = 0; i < run->classes; i++, logits++) {
                const double here = run->logits[i], off = here > *logits ? here - *logits : *logits - here;
                if (!(off <= 1e-4 * (1 + (here > 0 ? here : -here)))) {
                    printf("differs: recording %d, timestep %d, output %ld: %.9g and %.9g\n", recording, step, (long)i, here, *logits);
                    return 1;
                }
            }
        }
        board_next();
    }
    board_print(sizeof memory, "recording");
    printf("equal: %d recordings, %d timesteps each, spike for spike\n", golden_recordings, golden_timesteps);
    return 0;
}
