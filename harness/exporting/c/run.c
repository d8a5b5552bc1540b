/* Reads images from standard input, raw bytes, and writes a line for each: class, steps, spikes (input and layers).
   ./run [-b BOUND] [-d GAIN] [-k KEY0 KEY1] [-l] [-n NUMBER] [-s STEPS] [-t]
   -b: early exit, by the network's rule, or by confidence where it has none: smallest margin of the two largest logits
   -d: blocked pixels may open again (dynamic), and what a change opens makes the network forget, by this gain; 0: it does not
   -k: of the input's random numbers; else those of seed 0
   -l: left on: the network is not reset between images, as in a stream
   -n: number of the first image, of which its random numbers follow, too; else 0
   -s: steps of each image
   -t: writes a trace instead: of each step and layer one byte a neuron, whether it spiked, then the potentials of all layers but
       the input, the logits (float), and one byte a pixel, whether it is open in the next step */
#include "layout.h"
#include "network.h"

#include <stdio.h>
#include <stdlib.h>

static void trace(void)
{
    int layer, i;
    for (layer = 0; layer < NETWORK_LAYERS; layer++)
        for (i = 0; i < network_layer_size(layer); i++)
            putchar(network_spiked(layer, i));
    for (layer = 1; layer < NETWORK_LAYERS; layer++)
        for (i = 0; i < network_layer_size(layer); i++) {
            const potential_t value = network_potential(layer, i);
            fwrite(&value, sizeof value, 1, stdout);
        }
    fwrite(network_logits(), sizeof(float), NETWORK_CLASSES, stdout);
    fwrite(network_open(), 1, NETWORK_PIXELS, stdout);
}

/* The number that is all of this text, at least the lowest; else the program ends. */
static double number(const char *text, double lowest)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end || !(value >= lowest)) {
        fprintf(stderr, "%s is not a number from %g on\n", text, lowest);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static uint8_t pixels[NETWORK_PIXELS];
    uint32_t key0 = NETWORK_KEY0, key1 = NETWORK_KEY1, image = 0;
    size_t got;
    int i, layer, left_on = 0, shown = 0, traced = 0, steps = NETWORK_TIMESTEPS;
    for (i = 1; i < argc; i++) {
        const char option = argv[i][0] == '-' && argv[i][1] && !argv[i][2] ? argv[i][1] : '?';
        const int left = argc - 1 - i;
        if (option == 'b' && left >= 1) {
            if (network_settings.rule == RULE_NEVER)
                network_set_rule(RULE_CONFIDENCE);
            network_set_bound((float)number(argv[++i], 0));
        } else if (option == 'd' && left >= 1) {
            network_set_dynamic(1);
            network_set_surprise((float)number(argv[++i], 0));
        } else if (option == 'k' && left >= 2) {
            key0 = (uint32_t)strtoul(argv[++i], NULL, 0);
            key1 = (uint32_t)strtoul(argv[++i], NULL, 0);
        } else if (option == 's' && left >= 1)
            steps = (int)number(argv[++i], 1);
        else if (option == 'n' && left >= 1)
            image = (uint32_t)strtoul(argv[++i], NULL, 0);
        else if (option == 'l')
            left_on = 1;
        else if (option == 't')
            traced = 1;
        else {
            fprintf(stderr, "usage: %s [-b BOUND] [-d GAIN] [-k KEY0 KEY1] [-l] [-n NUMBER] [-s STEPS] [-t] < images\n", argv[0]);
            return 2;
        }
    }
    for (; (got = fread(pixels, 1, NETWORK_PIXELS, stdin)) == NETWORK_PIXELS; image++) {
        uint32_t spikes = 0;
        int step, stops = 0;
        if (!left_on || !shown++)
            network_reset(key0, key1, image);
        network_show(pixels);
        for (step = 0; step < steps && !stops; step++) {
            stops = network_step() && !left_on;
            for (layer = 0; layer < NETWORK_LAYERS; layer++)
                spikes += network_spikes(layer);
            if (traced)
                trace();
        }
        if (!traced)
            printf("%d %d %lu\n", network_answer(), step, (unsigned long)spikes);
    }
    if (got) {
        fprintf(stderr, "an image is %d bytes, and the last one has %lu: it is left out\n", NETWORK_PIXELS, (unsigned long)got);
        return 2;
    }
    return 0;
}
