/* Runs the images of golden.c and compares every spike and every open pixel with those of the network that this one was made of.
   Exit status 0: equal; 1: the first difference is named. */
#include "board.h"
#include "golden.c"
#include "weights.h"

#include <stdio.h>

static size_t memory[(NETWORK_BYTES) / sizeof(size_t) + 1];
static NetworkState *run;
static int32_t at_bits, at_potential; /* where the next bits, and potentials, of golden.c lie */

static int bit_of(int32_t i) { return golden_bits[at_bits + i / 32] >> i % 32 & 1; }

/* The first neuron of a layer that spiked here or there alone, -1 for none. */
static int32_t first_in(int layer)
{
    int32_t neuron;
    for (neuron = 0; neuron < network_layer_size(run, layer); neuron++)
        if (network_spiked(run, layer, neuron) != bit_of(neuron))
            return neuron;
    return -1;
}

static void name(int image, int step, int layer, int32_t neuron)
{
    printf("differs: image %d, timestep %d, layer %s, neuron %ld: it %s here; potential after the timestep %.9g", image,
           step, network_layer_name(run, layer), (long)neuron, network_spiked(run, layer, neuron) ? "spiked" : "did not spike",
           (double)network_potential(run, layer, neuron));
    if (layer && image < golden_known)
        printf(", and %.9g", (double)golden_potentials[at_potential + neuron]);
    printf(" in golden.c, threshold %.9g\n", (double)network_threshold(run, layer));
}

/* 1 where the image runs as golden.c says. */
static int equal(int image)
{
    int step, layer;
    int32_t i;
    COUNTED(network_reset(run, golden_key[0], golden_key[1], golden_numbers[image]));
    COUNTED(network_show(run, golden_pixels + (int32_t)image * NETWORK_PIXELS));
    for (step = 0; step < NETWORK_TIMESTEPS; step++) {
        for (i = 0; i < NETWORK_PIXELS; i++)
            if (run->is_open[i] != bit_of(i)) {
                printf("differs: image %d, before timestep %d, pixel %ld is %s here alone; prediction %.9g of %.9g\n", image, step,
                       (long)i, bit_of(i) ? "blocked" : "open", (double)network_predicted(run, i),
                       (double)network_pixel(run, i));
                return 0;
            }
        at_bits += (NETWORK_PIXELS + 31) / 32;
        COUNTED(network_step(run));
        for (layer = 0; layer < NETWORK_LAYERS; layer++) {
            const int32_t neuron = first_in(layer);
            if (neuron >= 0) {
                name(image, step, layer, neuron);
                return 0;
            }
            at_bits += (network_layer_size(run, layer) + 31) / 32;
            at_potential += layer ? network_layer_size(run, layer) : 0;
        }
        for (i = 0; i < NETWORK_CLASSES; i++) {
            const int32_t at = (image * NETWORK_TIMESTEPS + step) * NETWORK_CLASSES + i;
            const double here = run->logits[i], there = golden_logits[at];
            const double off = here > there ? here - there : there - here, size = there > 0 ? there : -there;
            if (!(off <= golden_tolerance * (1 + size))) {
                printf("differs: image %d, timestep %d, logit %ld is %.9g here and %.9g in golden.c\n", image, step, (long)i,
                       here, there);
                return 0;
            }
        }
    }
    return 1;
}

int main(void)
{
    int image;
    board_paint();
    run = network_begin(&network_tables, &network_defaults, memory, sizeof memory);
    for (image = 0; image < golden_images; image++) {
        if (!equal(image))
            return 1;
        board_next();
    }
    board_print(sizeof memory, "image");
    printf("equal: %d images, %d timesteps each, spike for spike\n", golden_images, NETWORK_TIMESTEPS);
    return 0;
}
