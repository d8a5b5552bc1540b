/* Reads inputs from standard input, and writes a line for each: class, timesteps, spikes (input and layers).
   Images: raw bytes. Recordings: of each event four whole numbers of 16 bits, little-endian: x, y, channel (polarity; of an input
   without places the neuron), timestep. Events come in the order of their timesteps. Four times 65535 ends a recording, and so does
   an event whose timestep is smaller than that before. Without -s a recording ends with its last event.
   ./run [-b BOUND] [-d GAIN] [-k KEY0 KEY1] [-l] [-n NUMBER] [-o] [-s STEPS] [-t]
   -b: early exit: the bound of the network's rule, or, where it has none, of confidence: smallest margin of the two largest logits
   -d: blocked pixels may open again (dynamic), and what a change opens makes the network forget, by this gain; 0: it does not
   -k: of the input's random numbers; else those of seed 0
   -l: streaming: the network is not reset between inputs
   -n: number of the first image, of which its random numbers follow, too; else 0
   -o: behind them each output's logit (of a NIR network its spikes, or sum), those of the first channel, row by row, first
   -s: timesteps of each input
   -t: writes a trace instead: of each timestep one byte a pixel, whether it is open, of each layer one byte a neuron, whether it
       spiked, then the potentials of all layers but the input, the logits (float), and one byte, 1 in an input's last timestep */
#include "weights.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = NETWORK_EVENTS ? 65536 : 1 }; /* events of a timestep */

static size_t memory[(NETWORK_BYTES) / sizeof(size_t) + 1];
static uint8_t pixels[NETWORK_PIXELS];
static NetworkState *run;
static int32_t events[MOST], event; /* that arrive in a timestep; the one that was read last */
static uint32_t at, limit;          /* its timestep; that of no event may be larger, 0: any may */
static int waits, is_over = 1;      /* whether it is still to arrive; whether its recording, or the image, has nothing more */

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

static void refuse(const char *why)
{
    fflush(stdout);
    fprintf(stderr, "%s\n", why);
    exit(2);
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

/* 1 where so many bytes were read; 0 at the end of all. */
static int has_read(void *to, size_t size, const char *what)
{
    const size_t got = fread(to, 1, size, stdin);
    if (ferror(stdin))
        refuse("the input cannot be read");
    if (got && got < size) {
        fflush(stdout);
        fprintf(stderr, "%s is %lu bytes, and the last one has %lu: it is left out\n", what, (unsigned long)size, (unsigned long)got);
        exit(2);
    }
    return got > 0;
}

/* The next event, or the end of a recording. Returns 0 at the end of all. */
static int read_event(void)
{
    const NetworkNode *input = &network_tables.node[0];
    uint8_t raw[8];
    const uint32_t before = at;
    int32_t x, y, channel;
    waits = 0, is_over = 1, at = 0;
    if (!has_read(raw, sizeof raw, "an event"))
        return 0;
    x = raw[0] | raw[1] << 8, y = raw[2] | raw[3] << 8, channel = raw[4] | raw[5] << 8, at = raw[6] | (uint32_t)raw[7] << 8;
    if ((x & y & channel & (int32_t)at) == 65535) {
        at = 0;
        return 1;
    }
    if (x >= input->width || y >= input->height || channel >= input->channels)
        refuse("an event lies outside of the input");
    if (limit && at >= limit)
        refuse("an event's timestep is not below STEPS");
    event = (y * input->width + x) * input->channels + channel;
    is_over = at < before;
    return waits = 1;
}

/* 1 where there is another input, an image, or a recording, which may be empty. */
static int begins(void)
{
    if (!NETWORK_EVENTS)
        return has_read(pixels, NETWORK_PIXELS, "an image");
    if (!waits && !read_event())
        return 0;
    is_over = !waits;
    return 1;
}

/* What the network sees in this timestep. */
static void arrive(uint32_t step)
{
    int32_t count = 0;
    if (!NETWORK_EVENTS && !step)
        network_show(run, pixels);
    for (; !is_over && at == step; read_event()) {
        if (count == MOST)
            refuse("too many events in one timestep");
        events[count++] = event;
    }
    if (NETWORK_EVENTS)
        network_arrive(run, events, count);
}

int main(int argc, char **argv)
{
    NetworkSettings settings = network_defaults;
    uint32_t key0 = NETWORK_KEY0, key1 = NETWORK_KEY1, image = 0;
    uint32_t steps = NETWORK_EVENTS ? 1 : NETWORK_TIMESTEPS;
    int i, layer, left_on = 0, shown = 0, traced = 0, outputs = 0;
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
            steps = limit = whole(option, argv[++i], 1, INT32_MAX);
        else if (option == 'n' && left >= 1)
            image = whole(option, argv[++i], 0, UINT32_MAX);
        else if (option == 'l')
            left_on = 1;
        else if (option == 'o')
            outputs = 1;
        else if (option == 't')
            traced = 1;
        else
            refuse("usage: ./run [-b BOUND] [-d GAIN] [-k KEY0 KEY1] [-l] [-n NUMBER] [-o] [-s STEPS] [-t] < input");
    }
    run = network_begin(&network_tables, &settings, memory, sizeof memory);
    if (!run)
        refuse("the network does not begin, see network_begin in network.h");
    if (left_on && !network_streams(run))
        refuse("-l: this network answers one image after the other: its update is phased, or its maximum pools count");
    if (settings.phase_steps && settings.rule != NETWORK_NEVER)
        refuse("-b: the update of this network is phased: it answers in its last timesteps alone");
    for (; begins(); image++) {
        uint32_t spikes = 0, step, taken = 0;
        int stops = 0;
        if (!left_on || !shown++)
            network_reset(run, key0, key1, image);
        for (step = 0; (step < steps && !stops) || !is_over; step++) {
            arrive(step);
            if (stops)
                continue;
            if (traced)
                fwrite(run->is_open, 1, NETWORK_PIXELS, stdout);
            stops = network_step(run) && !left_on;
            taken++;
            for (layer = 0; layer < NETWORK_LAYERS; layer++)
                spikes += network_spikes(run, layer);
            if (traced)
                trace(stops || (step + 1 >= steps && is_over));
        }
        if (traced)
            continue;
        printf("%d %lu %lu", network_answer(run), (unsigned long)taken, (unsigned long)spikes);
        for (i = 0; outputs && i < NETWORK_CLASSES; i++)
            printf(" %.9g", (double)run->logits[i]);
        putchar('\n');
    }
    if (fflush(stdout) || ferror(stdout))
        refuse("not all could be written: is the disk full?");
    return 0;
}
