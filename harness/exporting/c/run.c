/* Reads images from standard input, raw bytes, and writes a line for each: class, timesteps, spikes (input and layers).
   ./run [-b BOUND] [-d GAIN] [-k KEY0 KEY1] [-l] [-n NUMBER] [-s STEPS] [-t]
   -b: early exit: the bound of the network's rule, or, where it has none, of confidence: smallest margin of the two largest logits
   -d: blocked pixels may open again (dynamic), and what a change opens makes the network forget, by this gain; 0: it does not
   -k: of the input's random numbers; else those of seed 0
   -l: streaming: the network is not reset between images
   -n: number of the first image, of which its random numbers follow, too; else 0
   -s: timesteps of each image
   -t: writes a trace instead: of each timestep one byte a pixel, whether it is open, of each layer one byte a neuron, whether it
       spiked, then the potentials of all layers but the input, the logits (float), and one byte, 1 in an image's last timestep */
#include "weights.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>

static size_t memory[(NETWORK_BYTES) / sizeof(size_t) + 1];
static NetworkState *run;

/* A step, but for the open pixels, which are written before it. */
static void trace(int is_last)
{
    int layer, i;
    for (layer = 0; layer < NETWORK_LAYERS; layer++)
        for (i = 0; i < network_layer_size(run, layer); i++)
            putchar(network_spiked(run, layer, i));
    for (layer = 1; layer < NETWORK_LAYERS; layer++)
        for (i = 0; i < network_layer_size(run, layer); i++) {
            const network_potential_t value = network_potential(run, layer, i);
            fwrite(&value, sizeof value, 1, stdout);
        }
    fwrite(run->logits, sizeof(float), NETWORK_CLASSES, stdout);
    putchar(is_last);
}

static int refused(const char *why)
{
    fprintf(stderr, "%s\n", why);
    return 2;
}

/* The number that is all of this text, from least to most, else the program ends; the same of a whole number. */
static double number(char option, const char *text, double least, double most)
{
    char *end;
    const double value = strtod(text, &end);
    if (end != text && !*end && value >= least && value <= most)
        return value;
    fprintf(stderr, "-%c %s is not a number from %.10g to %.10g\n", option, text, least, most);
    exit(2);
}

static uint32_t whole(char option, const char *text, double least, double most)
{
    const double value = number(option, text, least, most);
    if (value == (uint32_t)value)
        return (uint32_t)value;
    fprintf(stderr, "-%c %s is not a whole number\n", option, text);
    exit(2);
}

int main(int argc, char **argv)
{
    static uint8_t pixels[NETWORK_PIXELS];
    NetworkSettings settings = network_defaults;
    uint32_t key0 = NETWORK_KEY0, key1 = NETWORK_KEY1, image = 0;
    size_t got;
    int i, layer, left_on = 0, shown = 0, traced = 0, steps = NETWORK_TIMESTEPS;
    for (i = 1; i < argc; i++) {
        const char option = argv[i][0] == '-' && argv[i][1] && !argv[i][2] ? argv[i][1] : '?';
        const int left = argc - 1 - i;
        if (option == 'b' && left >= 1) {
            const int is_share = settings.rule == NETWORK_ENTROPY || settings.rule == NETWORK_ALL_PREDICTED;
            const float bound = (float)number(option, argv[++i], 0, is_share ? 1 : FLT_MAX);
            settings.rule = settings.rule == NETWORK_NEVER ? NETWORK_CONFIDENCE : settings.rule;
            *(settings.rule == NETWORK_ENTROPY ? &settings.entropy_bound : is_share ? &settings.open_bound : &settings.gap_bound) = bound;
        } else if (option == 'd' && left >= 1) {
            settings.dynamic = 1;
            settings.surprise = (float)number(option, argv[++i], 0, FLT_MAX);
        } else if (option == 'k' && left >= 2) {
            key0 = whole(option, argv[++i], 0, UINT32_MAX);
            key1 = whole(option, argv[++i], 0, UINT32_MAX);
        } else if (option == 's' && left >= 1)
            steps = (int)whole(option, argv[++i], 1, INT32_MAX);
        else if (option == 'n' && left >= 1)
            image = whole(option, argv[++i], 0, UINT32_MAX);
        else if (option == 'l')
            left_on = 1;
        else if (option == 't')
            traced = 1;
        else
            return refused("usage: ./run [-b BOUND] [-d GAIN] [-k KEY0 KEY1] [-l] [-n NUMBER] [-s STEPS] [-t] < images");
    }
    run = network_begin(&network_tables, &settings, memory, sizeof memory);
    if (left_on && !network_streams(run))
        return refused("-l: this network answers one image after the other: its update is phased, or its maximum pools count");
    if (settings.phase && settings.rule != NETWORK_NEVER)
        return refused("-b: the update of this network is phased: it answers in its last timesteps alone");
    for (; (got = fread(pixels, 1, NETWORK_PIXELS, stdin)) == NETWORK_PIXELS; image++) {
        uint32_t spikes = 0;
        int step, stops = 0;
        if (!left_on || !shown++)
            network_reset(run, key0, key1, image);
        network_show(run, pixels);
        for (step = 0; step < steps && !stops; step++) {
            if (traced)
                fwrite(run->is_open, 1, NETWORK_PIXELS, stdout);
            stops = network_step(run) && !left_on;
            for (layer = 0; layer < NETWORK_LAYERS; layer++)
                spikes += network_spikes(run, layer);
            if (traced)
                trace(stops || step + 1 == steps);
        }
        if (!traced)
            printf("%d %d %lu\n", network_answer(run), step, (unsigned long)spikes);
    }
    if (fflush(stdout) || ferror(stdout))
        return refused("not all could be written: is the disk full?");
    if (ferror(stdin))
        return refused("the images cannot be read");
    if (got) {
        fprintf(stderr, "an image is %d bytes, and the last one has %lu: it is left out\n", NETWORK_PIXELS, (unsigned long)got);
        return 2;
    }
    return 0;
}
