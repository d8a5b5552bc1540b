/* The network's timestep, event by event, in the order encode, propagate, decode, gate: that of step() in
   self_models/vgg_wFeedback_spiking.py. network.h says how it is called and how it lies in memory; vectors.h has what is fast, small.h
   what needs little memory. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#else
#pragma STDC FP_CONTRACT OFF
#endif
#include "network.h"
#include "vectors.h"
#ifdef NETWORK_SMALL
#include "small.h"
#endif

#include <float.h>
#include <math.h>

typedef NetworkNode Node; typedef NetworkState State; typedef NetworkSettings Settings;

enum { ALIGNED = sizeof(void *) > 4 ? 16 : 8, CACHE_LINE = sizeof(void *) > 4 ? 64 : 8 }; /* bytes of which an array's place is a multiple,
                                                                                       and that of potentials: a line of the cache */
enum { SMALL = 64 };                          /* a window with so few weights is added up before it is added to V */
enum { AT_ONCE = 16, WAY = 1024, FEWER = 6 }; /* windows read at once; fewer of long ones, and where those a multiple of WAY apart
                                                   would push each other out of the cache */
enum { FOR_A_GROUP = 4 };                     /* mean spikes of a place in a group of channels from which on groups pay */
enum { FEW_WORDS = 32 };                      /* words of spikes for each spike up to which all are cleared, not those of places that sent */
enum { CHUNK = 64 };                          /* pixels read out at once */

/* --- numbers */

#ifdef NETWORK_INT8
enum { LEAK_ONE = 32768 }; /* a leak in 2^15ths */

/* floor(share x), share in 2^15ths */
static potential_t leaked(potential_t x, potential_t share)
{
    const int64_t product = (int64_t)x * share;
    return (potential_t)(product >= 0 ? product / LEAK_ONE : -((LEAK_ONE - 1 - product) / LEAK_ONE));
}

static potential_t kept(potential_t x, float keep) { return leaked(x, (potential_t)(keep * LEAK_ONE)); }

/* in 255ths; of two as near the even one, as 2^23 + 2^22 leaves no room for a fraction */
static potential_t current_of(float x) { return (potential_t)(x * 255 + 12582912.0f - 12582912.0f); }
#else
enum { LEAK_ONE = 1 };

ALWAYS potential_t leaked(potential_t x, potential_t leak) { return leak * x; }
static potential_t kept(potential_t x, float keep) { return keep * x; }
static potential_t current_of(float x) { return x; }
#endif

ALWAYS float absolute(float x) { return x < 0 ? -x : x; }
static int32_t least_of(int32_t a, int32_t b) { return a < b ? a : b; }

/* tanh by float32 operations alone, so that all machines agree: a polynomial near 0, else 1 - 2 / (exp(2 |x|) + 1), with
   exp(r + n ln 2) = 2^n exp(r) (polynomials of Cephes, S. Moshier). Both are computed, so that compilers make vectors of it. */
ALWAYS float portable_tanh(float x)
{
    const float a = absolute(x), z = x * x;
    float r = 2 * (a < 9 ? a : 9), e, small;
    union { int32_t bits; float value; } power;
    const int32_t n = (int32_t)(r * 1.44269504f + 0.5f);
    small = -5.70498872745e-3f * z + 2.06390887954e-2f;
    small = small * z - 5.37397155531e-2f;
    small = small * z + 1.33314422036e-1f;
    small = small * z - 3.33332819422e-1f;
    small = small * z * x + x;
    r = r - (float)n * 0.693359375f;
    r = r - (float)n * -2.12194440e-4f;
    e = 1.9875691500e-4f * r + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * (r * r) + r + 1;
    power.bits = (n + 127) * 8388608; /* 2^n */
    e = 1 - 2 / (e * power.value + 1);
    e = a > 9 ? 1 : e;
    return a < 0.625f ? small : x < 0 ? -e : e;
}

ALWAYS float sigmoid(float x) { return (1 + portable_tanh(x / 2)) / 2; }

/* --- how a state lies in memory */

enum { IS_SMALL = sizeof(pixel_t) == 1 };
static size_t places_of(const Node *node) { return (size_t)node->height * (size_t)node->width; }
static size_t neurons_of(const Node *node) { return places_of(node) * (size_t)node->channels; }
static potential_t constant(const State *run, int n, int which) { return run->network->constants[NETWORK_CONSTANTS * n + which]; }

/* count * bytes bytes of the memory from *end on, which moves behind them, or is 0 from then on where that is too much. Returns 0 for
   nothing, and without memory. */
static void *take(char *memory, size_t *end, size_t count, size_t bytes)
{
    const size_t at = *end;
    if (!at || !count)
        return 0;
    if (count > (SIZE_MAX / 2 - at) / bytes)
        *end = 0;
    else
        *end = (at + count * bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return memory && *end ? memory + at : 0;
}

/* Where the arrays of a State lie in the memory behind it; returns the end. memory 0: the end alone. */
static size_t lay(const NetworkTables *network, State *run, char *memory)
{
    size_t end = (sizeof *run + ALIGNED - 1) / ALIGNED * ALIGNED, pixels = neurons_of(&network->node[0]);
    const size_t classes = neurons_of(&network->node[network->output]);
    int32_t n, m;
    State here = *run;
    here.part = take(memory, &end, (size_t)network->nodes, sizeof *here.part);
    for (n = 0; n < network->nodes; n++) {
        const Node *node = &network->node[n];
        const int fires = (node->kind == NETWORK_NEURONS && n > 0) || node->kind == NETWORK_INTEGRATOR;
        const int pools = node->kind == NETWORK_POOL || node->kind == NETWORK_COUNTING_POOL || node->kind == NETWORK_ADDING;
        const int leaks = fires && network->constants[NETWORK_CONSTANTS * n + NETWORK_LEAK] != LEAK_ONE;
        const int lists = n > 0 && !pools && node->kind != NETWORK_DECODED && node->kind != NETWORK_OUTPUT;
        const size_t neurons = neurons_of(node);
        const size_t bits_of_places = (size_t)node->height * (size_t)((node->width - 1) / 32 + 1);
        const int sends = node->kind != NETWORK_OUTPUT && node->kind != NETWORK_DECODED && node->kind != NETWORK_MAP && node->kind != NETWORK_ADDING;
        int counts = node->kind == NETWORK_COUNTING_POOL;
        Part part = {0};
        part.words = (node->channels - 1) / 32 + 1;
        part.row_words = (node->width - 1) / 32 + 1;
        part.narrow = IS_SMALL && node->narrow;
        part.bytes = !IS_SMALL || node->channels > 16 ? 4 : node->channels > 8 ? 2 : 1;
        for (m = 0; m < network->nodes; m++)
            counts |= network->node[m].kind == NETWORK_COUNTING_POOL && network->node[m].source == n;
        end = (end + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
        part.v = take(memory, &end, (n > 0 && !pools) || node->valued ? neurons + SPARE : 0,
                      part.narrow ? sizeof(int16_t) : sizeof *part.v);
        part.spikes = take(memory, &end, sends ? places_of(node) * (size_t)part.words : 0, (size_t)part.bytes);
        part.sent = take(memory, &end, sends ? bits_of_places : 0, sizeof *part.sent);
        part.listed = take(memory, &end, lists ? bits_of_places : 0, sizeof *part.listed);
        part.decayed = take(memory, &end, leaks ? places_of(node) : 0, sizeof *part.decayed);
        part.passed = take(memory, &end, counts ? neurons : 0, sizeof *part.passed);
        part.counted = take(memory, &end, network->counting ? 2 * neurons : 0, sizeof *part.counted);
        if (here.part)
            here.part[n] = part;
    }
    here.begins = take(memory, &end, (size_t)network->windows + network->windows % 2, sizeof *here.begins);
    here.values = take(memory, &end, (size_t)network->windows + network->windows % 2, sizeof *here.values);
    here.image = take(memory, &end, pixels, sizeof *here.image);
    here.readout_sum = take(memory, &end, pixels, sizeof *here.readout_sum);
    here.prediction = take(memory, &end, IS_SMALL ? 0 : pixels, sizeof *here.prediction);
    here.logits = take(memory, &end, classes, sizeof *here.logits);
    here.is_open = take(memory, &end, pixels, 1);
    here.scratch = take(memory, &end, pixels + 4, 1);
    here.predicted = take(memory, &end, pixels, 1);
    here.sending = take(memory, &end, pixels / 4 + 1 + DRAWN, sizeof *here.sending);
    here.pixels = (int32_t)pixels, here.classes = (int32_t)classes;
    *run = here;
    return end;
}

size_t network_size(const NetworkTables *network)
{
    State none = {0};
    return lay(network, &none, 0);
}

/* Whether a network has what these settings ask for. */
static int fits(const NetworkTables *network, const Settings *settings)
{
    const int plain = settings->encoding == NETWORK_POISSON && !settings->residual;
    return (network->decoded >= 0 || !settings->feedback) && (network->node[0].valued || plain);
}

State *network_begin(const NetworkTables *network, const Settings *settings, void *memory, size_t bytes)
{
    const volatile float a = 1.000244140625f; /* 1 + 2^-12, whose square is rounded to 1 + 2^-11 */
    State *const run = memory;
    const size_t size = network_size(network);
    size_t i;
    if (!size || bytes < size || !fits(network, settings) || a * a - 1.00048828125f != 0)
        return 0;
    for (i = 0; i < size; i++)
        ((char *)memory)[i] = 0;
    lay(network, run, memory);
    run->network = network;
    run->settings = *settings;
    run->epoch = 0xFFFFFFFFu; /* of random numbers drawn in evaluation */
    return run;
}

/* --- a node: its potentials, and words of its spikes; for NETWORK_SMALL see small.h */

#ifndef NETWORK_SMALL
ALWAYS potential_t v_at(const Part *part, size_t i) { return part->v[i]; }
ALWAYS void set_v(const Part *part, size_t i, potential_t v) { part->v[i] = v; }
ALWAYS uint32_t word_at(const Part *part, size_t i) { return part->spikes[i]; }
ALWAYS void set_word(Part *part, size_t i, uint32_t word) { part->spikes[i] = word; }
#endif

static void clear_words(uint32_t *words, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        words[i] = 0;
}

/* A place's own thresholds, leaks or, in the place of START, values to reset to; 0 where its neurons have those of the node. */
static const potential_t *own_values(const State *run, int n, int which, size_t place)
{
    const Node *node = &run->network->node[n];
    const size_t first = (size_t)node->first_own + (size_t)which * neurons_of(node) + place * (size_t)node->channels;
    return node->first_own ? run->network->constants + first : 0;
}

/* V after the leak of so many steps. */
ALWAYS potential_t faded(potential_t v, potential_t leak, uint32_t steps)
{
    potential_t next = leaked(v, leak);
    for (; steps > 1 && next != v; steps--)
        v = next, next = leaked(v, leak);
    return steps ? next : v;
}

/* V <- leak V, once for each step that a place's membranes have missed. clock: steps whose leak they have had then. */
static void decay(State *run, int n, size_t place, uint32_t clock)
{
    const Node *node = &run->network->node[n];
    Part *const part = &run->part[n];
    const potential_t leak = constant(run, n, NETWORK_LEAK), *const own = own_values(run, n, NETWORK_LEAK, place);
    const size_t at = place * (size_t)node->channels;
    const uint32_t missed = part->decayed ? clock - part->decayed[place] : 0;
    int32_t o;
    if (!missed)
        return;
    for (o = 0; missed > 1 && o < node->channels; o++)
        set_v(part, at + (size_t)o, faded(v_at(part, at + (size_t)o), own ? own[o] : leak, missed - 1));
    for (o = 0; o < node->channels; o++)
        set_v(part, at + (size_t)o, leaked(v_at(part, at + (size_t)o), own ? own[o] : leak));
    part->decayed[place] = clock;
}

static potential_t bounded(potential_t v, potential_t least, potential_t most) { return v < least ? least : v > most ? most : v; }

/* V <- V, at least the floor, at most the ceiling, and as much above that as its spike is about to take away. */
static void bound(State *run, int n, size_t place, potential_t taken)
{
    const int32_t channels = run->network->node[n].channels;
    const potential_t least = constant(run, n, NETWORK_FLOOR), most = plus(constant(run, n, NETWORK_CEILING), taken);
    const size_t first = place * (size_t)channels;
    size_t i;
    for (i = first; i < first + (size_t)channels; i++)
        set_v(&run->part[n], i, bounded(v_at(&run->part[n], i), least, most));
}

/* Whether a node's potentials may reach a floor, or a ceiling, in this step. */
static int is_bounded(const State *run, int n)
{
    return (float)constant(run, n, NETWORK_FLOOR) > -FLT_MAX && (run->unproven || run->steps >= (uint32_t)run->network->node[n].unbounded);
}

/* Bring a node's potentials up to date; then V <- start + (V - start) keep. */
static void forget(State *run, int n, float keep)
{
    const Node *node = &run->network->node[n];
    const potential_t start = constant(run, n, NETWORK_START);
    Part *const part = &run->part[n];
    size_t place, i;
    if (node->kind != NETWORK_OUTPUT && (node->kind != NETWORK_NEURONS || n == 0))
        return;
    for (place = 0; place < places_of(node); place++) {
        decay(run, n, place, run->steps);
        bound(run, n, place, 0);
    }
    for (i = 0; keep != 1 && i < neurons_of(node); i++)
        set_v(part, i, plus(start, kept(minus(v_at(part, i), start), keep)));
}

/* Places first to last - 1 of rows top to bottom - 1 become candidates; their leak is brought up to date. */
ALWAYS void touch(State *run, int n, int32_t top, int32_t bottom, int32_t first, int32_t last, uint32_t clock)
{
    Part *const part = &run->part[n];
    int32_t x, y;
    part->busy = 1;
    for (x = first; part->listed && x < last; x += 32 - x % 32) {
        const uint32_t mask = 0xFFFFFFFFu >> (32 - least_of(last - x, 32 - x % 32)) << x % 32;
        for (y = top; y < bottom; y++)
            part->listed[y * part->row_words + x / 32] |= mask;
    }
    for (y = top; part->decayed && y < bottom; y++)
        for (x = first; x < last; x++)
            decay(run, n, (size_t)y * (size_t)run->network->node[n].width + (size_t)x, clock);
}

/* --- a node: its events. A place sends (sent), some of its neurons do (spikes). */

/* Each bit of a part's bitmap, sent or listed: row y, word by word, the lowest bit of `bits`; PLACE: its number. */
#define EACH_PLACE(node, part, bitmap, y, word, bits)                                                                              \
    for ((y) = 0; (y) < (node)->height; (y)++)                                                                                    \
        for ((word) = 0; (word) < (part)->row_words; (word)++)                                                                          \
            for ((bits) = (part)->bitmap[(y) * (part)->row_words + (word)]; (bits); (bits) &= (bits) - 1)
#define PLACE(node, y, word, bits) ((size_t)(y) * (size_t)(node)->width + (size_t)(32 * (word) + lowest(bits)))

ALWAYS void mark_sent(Part *part, int32_t y, int32_t x) { part->sent[y * part->row_words + x / 32] |= (uint32_t)1 << x % 32; }

/* A neuron of the place (y, x) sends something. Returns whether it had already. */
ALWAYS int send(Part *part, size_t place, int32_t y, int32_t x, int32_t channel)
{
    const size_t at = place * (size_t)part->words + (size_t)(channel / 32);
    const uint32_t word = word_at(part, at), bit = (uint32_t)1 << channel % 32;
    mark_sent(part, y, x);
    set_word(part, at, word | bit);
    part->count += !(word & bit);
    return (word & bit) != 0;
}

/* Nothing is sent. */
static void silence(State *run, int n)
{
    const Node *node = &run->network->node[n];
    Part *const part = &run->part[n];
    const int32_t words = part->words;
    int32_t y, word, w;
    uint32_t bits;
    if (!part->count)
        return;
    if (!IS_SMALL && places_of(node) * (size_t)words < FEW_WORDS * (size_t)part->count)
        clear_words(part->spikes, places_of(node) * (size_t)words);
    else
        EACH_PLACE(node, part, sent, y, word, bits)
            for (w = 0; w < words; w++)
                set_word(part, PLACE(node, y, word, bits) * (size_t)words + (size_t)w, 0);
    clear_words(part->sent, (size_t)(node->height * part->row_words));
    part->count = 0;
}

/* V <- 0, of what something has reached. */
static void clear(State *run, int n)
{
    const Node *node = &run->network->node[n];
    Part *const part = &run->part[n];
    int32_t y, word, o;
    uint32_t bits;
    if (!part->busy)
        return;
    part->busy = 0;
    if (!part->listed) {
        size_t i;
        for (i = 0; i < neurons_of(node); i++)
            set_v(part, i, 0);
        return;
    }
    EACH_PLACE(node, part, listed, y, word, bits)
        for (o = 0; o < node->channels; o++)
            set_v(part, PLACE(node, y, word, bits) * (size_t)node->channels + (size_t)o, 0);
    clear_words(part->listed, (size_t)(node->height * part->row_words));
}

/* Counting: count what each neuron has sent in this step; where events have values, apart by whether all in the step were 1 or -1. */
static void note(State *run, int n)
{
    const Node *node = &run->network->node[n];
    Part *const part = &run->part[n];
    const int32_t channels = node->channels, words = part->words;
    uint32_t *into = part->counted;
    int32_t y, word, w, pass;
    uint32_t bits, spikes;
    if (!into || !part->count)
        return;
    for (pass = node->valued ? 0 : 1; pass < 2; pass++)
        EACH_PLACE(node, part, sent, y, word, bits)
            for (w = 0; w < words; w++) {
                const size_t place = PLACE(node, y, word, bits);
                for (spikes = word_at(part, place * (size_t)words + (size_t)w); spikes; spikes &= spikes - 1) {
                    const size_t neuron = place * (size_t)channels + (size_t)(32 * w + lowest(spikes));
                    if (pass)
                        into[neuron]++;
                    else if (v_at(part, neuron) != 1 && v_at(part, neuron) != -1)
                        into = part->counted + neurons_of(node);
                }
            }
}

/* --- a pixel x, and its prediction p, on the image's scale */

ALWAYS float scaled(float grey, int colour) { return colour ? grey * 2 - 1 : grey; }

ALWAYS float prediction_of(int readout, int colour, float r)
{
    const float least = colour ? -1.0f : 0.0f;
    if (readout == NETWORK_MEMBRANE_LINEAR)
        return r < least ? least : r > 1 ? 1 : r;
    return colour ? portable_tanh(r) : readout == NETWORK_MEMBRANE ? sigmoid(r) : 2 * sigmoid(r) - 1;
}

/* x of an image's value; p of what is kept: p itself, NETWORK_SMALL: R */
ALWAYS float x_of(const State *run, pixel_t value) { return IS_SMALL ? scaled((float)value / 255, run->network->colour) : (float)value; }
#define p_of(run, kept) (IS_SMALL ? prediction_of((run)->settings.readout, (run)->network->colour, kept) : (kept))
static const float *kept_predictions(const State *run) { return IS_SMALL ? run->readout_sum : run->prediction; }

float network_pixel(const State *run, int pixel) { return x_of(run, run->image[pixel]); }
float network_prediction(const State *run, int pixel) { return p_of(run, kept_predictions(run)[pixel]); }

/* --- encode */

/* Events that are given. */
static void receive(State *run)
{
    const Node *node = &run->network->node[0];
    Part *const part = &run->part[0];
    int32_t i;
    part->plain = 1;
    for (i = 0; i < run->input_count; i++) {
        const int32_t neuron = run->input_events[i], place = neuron / node->channels, channel = neuron % node->channels;
        const potential_t size = run->input_values ? (potential_t)run->input_values[i] : 1;
        const int sent = send(part, (size_t)place, place / node->width, place % node->width, channel);
        const potential_t value = sent ? plus(v_at(part, (size_t)neuron), size) : size;
        set_v(part, (size_t)neuron, value);
        part->plain &= value == 1;
    }
    run->input_events = 0;
    note(run, 0);
}

/* poisson: s = sign(x) if u <= |x|, u a random number in [0, 1); direct: s = x. Of open pixels alone; where a prediction is taken
   away (residual), x - p takes the place of x. */
static void encode(State *run)
{
    const Node *node = &run->network->node[0];
    Part *const part = &run->part[0];
    const Settings *set = &run->settings;
    const int poisson = set->encoding == NETWORK_POISSON, draws = poisson && !run->uniforms;
    const int32_t channels = node->channels, across = node->width * channels; /* pixels of a row */
    const float *const kept = kept_predictions(run);
    uint32_t words[4][DRAWN];
    int32_t i, q, y = 0;
    if (run->input_events) {
        receive(run);
        return;
    }
    if (set->phase_steps && run->steps >= (uint32_t)set->phase_steps)
        return; /* the image is sent in the first phase */
    for (i = 0; i < run->blocks; i++) {
        if (draws && i % DRAWN == 0)
            philox((const uint32_t *)run->sending + i, run->steps, run->number, run->epoch, run->key[0], run->key[1], words);
        for (q = 0; q < 4; q++) {
            const int32_t pixel = 4 * run->sending[i] + q;
            potential_t value;
            int32_t x, channel;
            float unexplained;
            if (pixel >= run->pixels || !run->is_open[pixel])
                continue;
            unexplained = x_of(run, run->image[pixel]) - (run->subtracts_prediction ? p_of(run, kept[pixel]) : 0);
            value = !poisson ? current_of(unexplained) : unexplained > 0 ? 1 : unexplained < 0 ? -1 : 0;
            if (value == 0)
                continue;
            if (poisson && (draws ? uniform(words[q][i % DRAWN]) : run->uniforms[pixel]) > absolute(unexplained))
                continue;
            for (; pixel >= (y + 1) * across; y++)
                ;
            x = pixel - y * across, channel = 0;
            if (channels > 1)
                channel = x % channels, x = x / channels;
            if (node->valued)
                set_v(part, (size_t)pixel, value);
            send(part, (size_t)(pixel / channels), y, x, channel);
        }
    }
    note(run, 0);
}

/* --- propagate: charge, fire, reset */

/* Whether the windows of two rows, or columns, of the source reach the same ones of the target. */
static int reach_alike(const int32_t *a, const int32_t *b)
{
    return a[NETWORK_CORNER] == b[NETWORK_CORNER] && a[NETWORK_SKIPPED] == b[NETWORK_SKIPPED];
}

/* V <- V + W s for `count` windows of weights (run->begins, run->values) of the same row and column of the source, whose numbers are in
   `places`. A corner may stick out over the border. */
static void add_windows(State *run, int n, const int32_t *of_row, const int32_t *of_column, int32_t count, uint32_t clock)
{
    const Node *node = &run->network->node[n];
    const int target = node->into;
    const weight_t *const weights = run->network->weights;
    const int32_t channels = node->channels, row_size = node->row_size;
    const int32_t row = of_row[NETWORK_CORNER], top = row + of_row[NETWORK_SKIPPED] < 0 ? -row : of_row[NETWORK_SKIPPED];
    const int32_t column = of_column[NETWORK_CORNER];
    const int32_t left = column + of_column[NETWORK_SKIPPED] < 0 ? -column : of_column[NETWORK_SKIPPED];
    const int32_t bottom = least_of(node->side, node->height - row), right = least_of(node->side, node->width - column);
    const int32_t size = (right == node->side ? row_size : right * channels) - left * channels;
    const int valued = run->network->node[node->source].valued && !run->part[node->source].plain;
    const size_t stride = (size_t)node->width * (size_t)channels;
    const size_t at = (size_t)(row + top) * stride + (size_t)(column + left) * (size_t)channels;
    int32_t y;
#ifdef NETWORK_SMALL
    const int kind = !valued ? SPIKES : run->part[node->source].narrow ? PAIRS : VALUES;
#else
    potential_t *to = run->part[target].v + at, window[SMALL];
    const int32_t block = node->side * row_size;
    int32_t i, at_once;
#endif
    touch(run, target, row + top, row + bottom, column + left, column + right, clock);
#ifdef NETWORK_SMALL
    if (kind == PAIRS)
        count = in_pairs(run->values, run->begins, count);
    for (y = top; y < bottom; y++)
        add_sums(run->part[target].v, at + (size_t)(y - top) * stride, weights + y * row_size + left * channels, run->begins, run->values,
                 count, size, run->part[target].narrow, kind);
#else
    if (count > 1 && block <= SMALL) { /* add them all up first */
        for (i = 0; i < block; i++)
            window[i] = 0;
        add_weights(window, weights, run->begins, run->values, count, block, valued);
        for (y = top; y < bottom; y++, to += stride)
            add_all(to, window + y * row_size + left * channels, size);
        return;
    }
    if (!valued && bottom - top == 3 && add_whole(to, stride, weights + top * row_size + left * channels, row_size, run->begins, count, size))
        return;
    at_once = block % WAY && block < 2 * WAY ? AT_ONCE : FEWER;
    for (y = top; y < bottom; y++, to += stride)
        for (i = 0; i < count; i += at_once)
            add_weights(to, weights + y * row_size + left * channels, run->begins + i, run->values + i, least_of(at_once, count - i), size,
                     valued);
#endif
}

/* V <- V + W s for the spikes s of the source in channels first to last - 1, those of one window after the other. simple, a constant
   where this is called: they are all channels, 32 at the most. */
ALWAYS void add_spikes(State *run, int n, int32_t first, int32_t last, uint32_t clock, const int simple)
{
    const Node *node = &run->network->node[n], *from = &run->network->node[node->source];
    const Part *source = &run->part[node->source];
    const int32_t words = source->words;
    const int32_t *const rows = run->network->places + node->first_place, *const columns = rows + NETWORK_PLACES * from->height;
    const size_t block = (size_t)node->side * (size_t)node->row_size;
    const int32_t *of_row = rows, *of_column = columns; /* of the windows that are listed */
    int32_t count = 0, y, word, w;
    uint32_t bits, spikes;
    size_t base;
    EACH_PLACE(from, source, sent, y, word, bits) {
        const int32_t x = 32 * word + lowest(bits);
        const size_t place = (size_t)y * (size_t)from->width + (size_t)x;
        const int32_t *const its_row = rows + NETWORK_PLACES * y, *const its_column = columns + NETWORK_PLACES * x;
        if (its_row[NETWORK_SET] < 0 || its_column[NETWORK_SET] < 0)
            continue;
        if (count && !(reach_alike(its_row, of_row) && reach_alike(its_column, of_column))) {
            add_windows(run, n, of_row, of_column, count, clock);
            count = 0;
        }
        of_row = its_row, of_column = its_column;
        base = (size_t)node->first_weight + (size_t)(of_row[NETWORK_SET] + of_column[NETWORK_SET]) * (size_t)from->channels * block;
        for (w = simple ? 0 : first / 32; simple ? w < 1 : 32 * w < last; w++) {
            spikes = word_at(source, place * (size_t)words + (size_t)w);
            if (!simple) {
                spikes &= first > 32 * w ? 0xFFFFFFFFu << (first - 32 * w) : 0xFFFFFFFFu;
                spikes &= last < 32 * w + 32 ? ((uint32_t)1 << (last - 32 * w)) - 1 : 0xFFFFFFFFu;
            }
            for (; spikes; spikes &= spikes - 1) {
                const int32_t channel = 32 * w + lowest(spikes);
                if (count == run->network->windows) {
                    add_windows(run, n, of_row, of_column, count, clock);
                    count = 0;
                }
                run->begins[count] = base + (size_t)channel * block;
                if (from->valued)
                    run->values[count] = v_at(source, place * (size_t)from->channels + (size_t)channel);
                count++;
            }
        }
    }
    if (count)
        add_windows(run, n, of_row, of_column, count, clock);
}

/* V <- V + w s, where the link is the same: of a place that lies there after the halvings. */
static void add_same(State *run, int n, uint32_t clock)
{
    const Node *node = &run->network->node[n], *from = &run->network->node[node->source];
    const int target = node->into;
    const Part *source = &run->part[node->source], *const part = &run->part[target];
    const potential_t weight = run->network->weights[node->first_weight];
    const int32_t words = source->words;
    int32_t y, word, w;
    uint32_t bits, spikes;
    EACH_PLACE(from, source, sent, y, word, bits) {
        const int32_t x = 32 * word + lowest(bits), row = y >> node->halvings, column = x >> node->halvings;
        const size_t place = (size_t)y * (size_t)from->width + (size_t)x;
        const size_t to = ((size_t)row * (size_t)node->width + (size_t)column) * (size_t)node->channels;
        if (row >= node->height || column >= node->width)
            continue;
        touch(run, target, row, row + 1, column, column + 1, clock);
        for (w = 0; w < words; w++)
            for (spikes = word_at(source, place * (size_t)words + (size_t)w); spikes; spikes &= spikes - 1) {
                const size_t channel = (size_t)(32 * w + lowest(spikes));
                const potential_t size = from->valued ? v_at(source, place * (size_t)from->channels + channel) : 1;
                set_v(part, to + channel, plus(v_at(part, to + channel), times(weight, size)));
            }
    }
}

/* Phased: -1 in the phase in which a node charges, while its source fires, and 0 in the next, in which it fires itself. */
static int32_t turn(const State *run, int n)
{
    const int32_t phase = run->settings.phase_steps;
    return phase ? (int32_t)run->steps / phase - run->network->node[n].depth : 0;
}

/* V <- V + b + W s, up to date with this clock. Where weights are more than the cache holds and places have many spikes, one group
   of channels after the other: its weights are read from memory once, and for all other places from the cache. */
static void charge(State *run, int n, uint32_t clock)
{
    const Node *node = &run->network->node[n], *from = &run->network->node[node->source];
    const Part *source = &run->part[node->source];
    int32_t group = node->group, first, o;
    size_t i, places = 0;
    if (node->first_bias && (!run->settings.phase_steps || turn(run, n) == -1)) {
        const potential_t *bias = run->network->constants + node->first_bias;
        Part *const part = &run->part[n];
        size_t at = 0;
        touch(run, n, 0, node->height, 0, node->width, clock);
        for (i = 0; i < places_of(node); i++, bias += node->first_own ? node->channels : 0)
            for (o = 0; o < node->channels; o++, at++)
                set_v(part, at, plus(v_at(part, at), bias[o]));
    }
    if (!source->count)
        return;
    if (node->link == NETWORK_SAME) {
        add_same(run, n, clock);
        return;
    }
    for (i = 0; group < from->channels && i < (size_t)(from->height * source->row_words); i++)
        places += (size_t)how_many(source->sent[i]);
    if ((size_t)source->count * (size_t)group < FOR_A_GROUP * (size_t)from->channels * places)
        group = from->channels;
    if (source->words == 1 && group == from->channels)
        add_spikes(run, n, 0, group, clock, 1);
    else
        for (first = 0; first < from->channels; first += group)
            add_spikes(run, n, first, least_of(from->channels, first + group), clock, 0);
}

/* Bit i: whether V > theta, of `count` neurons, 32 at most. thetas: thresholds of their own, or 0. */
ALWAYS uint32_t crossed(const Part *part, size_t first, int32_t count, potential_t theta, const potential_t *thetas)
{
    uint32_t bits = 0;
    int32_t i;
#ifndef NETWORK_SMALL
    if (!thetas)
        return above(part->v + first, count, theta);
#endif
    for (i = 0; i < count; i++)
        bits |= (uint32_t)(v_at(part, first + (size_t)i) > (thetas ? thetas[i] : theta)) << i;
    return bits;
}

/* V <- the value to reset to, or V - theta, of the bits `fired` in word w of a place; returns whether one is above its threshold
   still. theta: that of the node. */
ALWAYS int reset(State *run, int n, size_t place, int32_t w, uint32_t fired, potential_t theta)
{
    const Node *node = &run->network->node[n];
    const potential_t *thetas, *values;
    const size_t first = place * (size_t)node->channels + 32 * (size_t)w;
    Part *const part = &run->part[n];
    int still = 0;
#ifndef NETWORK_SMALL
    if (!node->first_reset && !node->first_own)
        return lower(part->v + first, fired, least_of(node->channels - 32 * w, 32), theta) != 0;
#endif
    thetas = own_values(run, n, NETWORK_THRESHOLD, place), values = own_values(run, n, NETWORK_START, place);
    for (; fired; fired &= fired - 1) {
        const int32_t i = lowest(fired), o = 32 * w + i;
        const potential_t its_theta = thetas ? thetas[o] : theta, before = v_at(part, first + (size_t)i);
        const potential_t value = values ? values[o] : run->network->constants[node->first_reset];
        const potential_t v = node->first_reset ? value : minus(before, its_theta);
        set_v(part, first + (size_t)i, v);
        still |= v > its_theta;
    }
    return still;
}

/* s = 1 where V > theta, and there V <- V - theta, or the value to reset to: at candidates, which stay so where V is still above theta, or below the floor.
   clock: steps whose leak the potential has had that is compared. A delayed neuron leaks before its reset. simple, a constant where
   this is called: of 32 channels at the most, without leak, floor or thresholds of their own. */
ALWAYS void fire_as(State *run, int n, uint32_t clock, const int simple)
{
    const Node *node = &run->network->node[n];
    Part *const part = &run->part[n];
    const potential_t theta = constant(run, n, NETWORK_THRESHOLD), least = constant(run, n, NETWORK_FLOOR);
    const int32_t channels = node->channels, words = simple ? 1 : part->words, row_words = part->row_words;
    const int bounds = !simple && is_bounded(run, n), decays = !simple && part->decayed != 0;
    const int later = !simple && node->resets == NETWORK_RESET_LATER;
    const potential_t *const thetas = simple ? 0 : own_values(run, n, NETWORK_THRESHOLD, 0);
    int32_t y, word, w;
    uint32_t bits, busy = 0;
    for (y = 0; part->busy && y < node->height; y++)
        for (word = 0; word < row_words; word++) {
            uint32_t *const listed = part->listed + (size_t)y * (size_t)row_words + (size_t)word, keep = 0, sent = 0;
            for (bits = *listed; bits; bits &= bits - 1) {
                const size_t place = PLACE(node, y, word, bits);
                const size_t v = place * (size_t)channels, sends = place * (size_t)words;
                const uint32_t bit = bits & (~bits + 1);
                uint32_t any = 0;
                if (decays)
                    decay(run, n, place, clock);
                for (w = 0; later && w < words; w++) /* the spikes of the step before */
                    reset(run, n, place, w, word_at(part, sends + (size_t)w), theta);
                if (bounds)
                    bound(run, n, place, run->settings.immediate ? theta : 0);
                for (w = 0; w < words; w++) {
                    const int32_t size = least_of(channels - 32 * w, 32);
                    const size_t first = v + 32 * (size_t)w;
                    const uint32_t fired = crossed(part, first, size, theta, thetas ? thetas + first : 0);
                    set_word(part, sends + (size_t)w, fired);
                    any |= fired;
                }
                if (!any)
                    continue;
                sent |= bit;
                if (decays && !run->settings.immediate)
                    decay(run, n, place, clock + 1);
                for (w = 0; w < words; w++) {
                    const size_t first = v + 32 * (size_t)w;
                    uint32_t fired = word_at(part, sends + (size_t)w);
                    part->count += (uint32_t)how_many(fired);
                    if (node->resets || reset(run, n, place, w, fired, theta))
                        keep |= bit;
                    for (; bounds && fired; fired &= fired - 1)
                        if (v_at(part, first + (size_t)lowest(fired)) < least)
                            keep |= bit;
                }
            }
            part->sent[(size_t)y * (size_t)row_words + (size_t)word] = sent;
            *listed = keep;
            busy |= keep;
        }
    part->busy = busy != 0;
    note(run, n);
}

static void fire(State *run, int n, uint32_t clock)
{
    const Part *part = &run->part[n];
    const Node *node = &run->network->node[n];
    if (part->words == 1 && !part->decayed && !node->first_own && !node->resets && !is_bounded(run, n))
        fire_as(run, n, clock, 1);
    else
        fire_as(run, n, clock, 0);
}

/* The sums of a relay become events whose values they are. */
static void release(State *run, int n)
{
    const Node *node = &run->network->node[n];
    Part *const part = &run->part[n];
    int32_t y, word, o;
    uint32_t bits;
    EACH_PLACE(node, part, listed, y, word, bits) {
        const size_t place = PLACE(node, y, word, bits);
        for (o = 0; o < node->channels; o++)
            if (v_at(part, place * (size_t)node->channels + (size_t)o) != 0)
                send(part, place, y, 32 * word + lowest(bits), o);
    }
    note(run, n);
}

/* A 2 x 2 maximum pool: a spike passes where any of its four neurons spikes (an odd row or column is left out), or, where it
   counts, where the highest spike count of the four rises. */
static void pool(State *run, int n)
{
    const Node *node = &run->network->node[n], *from = &run->network->node[node->source];
    Part *const part = &run->part[n];
    const Part *source = &run->part[node->source];
    const int32_t words = part->words, channels = node->channels;
    int32_t y, word, w;
    uint32_t bits, spikes;
    EACH_PLACE(from, source, sent, y, word, bits) {
        const int32_t x = 32 * word + lowest(bits);
        const size_t before = (size_t)y * (size_t)from->width + (size_t)x;
        const size_t place = (size_t)(y / 2) * (size_t)node->width + (size_t)(x / 2);
        if (y / 2 >= node->height || x / 2 >= node->width)
            continue;
        for (w = 0; w < words; w++) {
            const size_t at = place * (size_t)words + (size_t)w;
            const uint32_t passed = word_at(part, at);
            uint32_t now;
            spikes = word_at(source, before * (size_t)words + (size_t)w);
            for (now = spikes; node->kind == NETWORK_COUNTING_POOL && now; now &= now - 1) {
                const size_t channel = (size_t)(32 * w + lowest(now));
                uint32_t *const its = &source->passed[before * (size_t)channels + channel];
                uint32_t *const highest = &part->passed[place * (size_t)channels + channel];
                *its += from->kind != NETWORK_COUNTING_POOL; /* which has counted what it let through */
                if (*its > *highest)
                    ++*highest;
                else
                    spikes &= ~(now & (~now + 1));
            }
            part->count += (uint32_t)how_many(spikes & ~passed);
            set_word(part, at, passed | spikes);
            if (spikes)
                mark_sent(part, y / 2, x / 2);
        }
    }
    note(run, n);
}

/* Count the neurons that something has reached: no weight of a map is negative. */
static void count_reached(State *run, int n)
{
    const Node *node = &run->network->node[n];
    Part *const part = &run->part[n];
    uint32_t *const reached = part->counted + neurons_of(node);
    int32_t y, word, o;
    uint32_t bits;
    EACH_PLACE(node, part, listed, y, word, bits)
        for (o = 0; o < node->channels; o++) {
            const size_t neuron = PLACE(node, y, word, bits) * (size_t)node->channels + (size_t)o;
            reached[neuron] += v_at(part, neuron) > 0;
        }
    clear(run, n);
}

/* O <- mu O + W s, and the logits, in which the places of a channel lie side by side. */
static void add_up(State *run, int n)
{
    const int32_t channels = run->network->node[n].channels;
    const potential_t leak = constant(run, n, NETWORK_LEAK);
    const Part *part = &run->part[n];
    int32_t i, o, at;
    for (i = 0; leak != LEAK_ONE && i < run->classes; i++)
        set_v(part, (size_t)i, leaked(v_at(part, (size_t)i), leak));
    charge(run, n, 0);
    bound(run, n, 0, 0);
    for (i = o = 0; o < channels; o++)
        for (at = o; at < run->classes; at += channels)
            run->logits[i++] = (float)v_at(part, (size_t)at) * run->settings.logits_scale;
}

/* One timestep of a node. */
static void propagate(State *run, int n)
{
    const Node *node = &run->network->node[n];
    const uint32_t immediate = (uint32_t)run->settings.immediate, clock = run->steps;
    int32_t y, word;
    uint32_t bits;
    if (node->resets == NETWORK_RESET_LATER)
        run->part[n].count = 0; /* the spikes stay until they are reset */
    else
        silence(run, n);
    switch (node->kind) {
    case NETWORK_NEURONS:
        if (immediate)
            charge(run, n, clock + 1);
        if (turn(run, n) == 0)
            fire(run, n, clock + immediate);
        if (!immediate)
            charge(run, n, clock + 1);
        break;
    case NETWORK_OUTPUT:
        add_up(run, n);
        break;
    case NETWORK_RELAY: /* which is cleared behind the step: other links may charge it first */
    case NETWORK_INTEGRATOR:
        EACH_PLACE(node, &run->part[n], listed, y, word, bits)
            decay(run, n, PLACE(node, y, word, bits), clock + 1);
        charge(run, n, clock + 1);
        release(run, n);
        break;
    case NETWORK_POOL:
    case NETWORK_COUNTING_POOL:
        pool(run, n);
        break;
    default: /* ADDING, DECODED, MAP */
        charge(run, n, clock + 1);
        if (node->kind == NETWORK_MAP)
            count_reached(run, n);
    }
}

/* --- read out */

/* p on the image's scale, from R, of pixels first to last - 1; NETWORK_SMALL finds each where it is needed. */
static void predict(State *run, int32_t first, int32_t last)
{
    const float *const r = run->readout_sum;
    const int readout = run->settings.readout, colour = run->network->colour;
    float *const p = run->prediction;
    int32_t i;
#define EACH_BY(readout, colour) for (i = first; i < last; i++) p[i] = prediction_of(readout, colour, r[i])
    if (IS_SMALL)
        return;
    if (readout == NETWORK_MEMBRANE_LINEAR)
        EACH_BY(NETWORK_MEMBRANE_LINEAR, colour);
    else if (colour)
        EACH_BY(NETWORK_MEMBRANE, 1);
    else if (readout == NETWORK_MEMBRANE)
        EACH_BY(NETWORK_MEMBRANE, 0);
    else
        EACH_BY(NETWORK_SPIKE_COUNT, 0);
}

/* A pixel is predicted where |p - x| < epsilon; then its input neuron is blocked, for good, or until it is not (dynamic). Where the
   channels of a pixel are judged as one (per_pixel), it is predicted where all are. Of pixels first to last - 1, whole places. */
static void gate(State *run, int32_t first, int32_t last)
{
    const int32_t channels = run->settings.per_pixel ? run->network->node[0].channels : 1;
    const float *const p = kept_predictions(run), epsilon = run->settings.epsilon;
    const pixel_t *const x = run->image;
    const uint8_t dynamic = run->settings.dynamic != 0;
    uint8_t *const predicted = run->predicted, *const is_open = run->is_open, changed = 0;
    int32_t i, each;
    for (i = first; i < last; i++)
        predicted[i] = absolute(p_of(run, p[i]) - x_of(run, x[i])) < epsilon;
    for (i = first; channels > 1 && i < last; i += channels) {
        uint8_t all = 1;
        for (each = i; each < i + channels; each++)
            all &= predicted[each];
        for (each = i; each < i + channels; each++)
            predicted[each] = all;
    }
    for (i = first; i < last; i++) {
        const uint8_t now = (uint8_t)((predicted[i] ^ 1) & (dynamic | is_open[i]));
        changed |= now ^ is_open[i];
        is_open[i] = now;
    }
    run->changed |= changed;
}

/* R <- rho R + d, held where a pixel is blocked (latch); with a slew limit sigma, sigma tanh(d / sigma) takes the place of d. Of `count`
   pixels, CHUNK at most. */
static void read_out(State *run, int32_t first, int32_t count)
{
    const Part *const decoded = &run->part[run->network->decoded];
    const float slew = run->settings.readout_slew, leak = run->settings.readout_leak, scale = run->settings.decoded_scale;
    const int latch = run->settings.latch;
    float *const r = run->readout_sum + first, moves[CHUNK];
    const uint8_t *const is_open = run->is_open + first;
    int32_t i;
    for (i = 0; i < count; i++)
        moves[i] = (float)v_at(decoded, (size_t)(first + i)) * scale;
    for (i = 0; slew > 0 && i < count; i++)
        moves[i] = slew * portable_tanh(moves[i] / slew);
    for (i = 0; i < count; i++) {
        const float next = leak * r[i] + moves[i];
        r[i] = latch && !is_open[i] ? r[i] : next;
    }
}

/* Read-out, prediction, and the gate's look at it, of the pixels that the decoder has moved, or of all. */
static void read_out_and_gate(State *run)
{
    const Part *const decoded = &run->part[run->network->decoded];
    const int everywhere = run->look_again || run->settings.readout_leak != 1;
    const int32_t channels = run->network->node[0].channels, size = channels * ((CHUNK + channels - 1) / channels);
    int32_t first, i;
    for (first = 0; first < run->pixels; first += size) {
        const int32_t last = least_of(first + size, run->pixels);
        int moved = everywhere;
        for (i = first; i < last; i++)
            moved |= v_at(decoded, (size_t)i) != 0;
        if (!moved)
            continue;
        for (i = first; i < last; i += CHUNK)
            read_out(run, i, least_of(CHUNK, last - i));
        predict(run, first, last);
        gate(run, first, last);
    }
    run->look_again = 0;
}

/* Which pixels may send, by blocks of four, and how many there are. */
static void list_sending(State *run)
{
    const pixel_t *const x = run->image;
    const uint8_t *const is_open = run->is_open, explained = run->subtracts_prediction != 0;
    uint8_t *const may = run->scratch;
    int32_t *const sending = run->sending;
    const int32_t pixels = run->pixels; /* not read again behind each byte that is written */
    int32_t i, active = 0, open = 0, open_active = 0, blocks = 0;
    for (i = 0; i < pixels; i++) {
        const uint8_t is_active = x_of(run, x[i]) != 0;
        active += is_active;
        open += is_open[i];
        open_active += is_active & is_open[i];
        may[i] = is_open[i] & (is_active | explained);
    }
    for (i = pixels; i % 4; i++)
        may[i] = 0;
    for (i = 0; 4 * i < pixels; i++) {
        sending[blocks] = i;
        blocks += may[4 * i] | may[4 * i + 1] | may[4 * i + 2] | may[4 * i + 3];
    }
    run->active = active, run->open = open, run->open_active = open_active, run->blocks = blocks;
    run->changed = 0;
}

/* The decoder's step; then read-out and gate. */
static void decode(State *run)
{
    const NetworkTables *network = run->network;
    int32_t i;
    for (i = 0; i < network->feedback; i++)
        propagate(run, network->order[network->forward + i]);
    read_out_and_gate(run);
    clear(run, network->decoded);
    if (run->changed || run->subtracts_prediction != run->settings.residual) {
        run->subtracts_prediction = run->settings.residual;
        list_sending(run);
    }
}

/* --- stopping rules */

static float share(int32_t part, int32_t whole) { return (float)part / (float)(whole > 1 ? whole : 1); }

#ifndef NETWORK_SMALL
/* The entropy of softmax(O) as a part of its largest value; in double, by this machine's exp and log. */
static float entropy(const State *run)
{
    const float best = run->logits[network_answer(run)];
    double total = 0, weighted = 0;
    int32_t o;
    for (o = 0; o < run->classes; o++) {
        const double above_best = (double)(run->logits[o] - best), p = exp(above_best);
        total += p;
        weighted += p * above_best;
    }
    return (float)((log(total) - weighted / total) / log((double)run->classes));
}
#else
#define entropy(run) 2.0f /* no exp and log: it ends no image */
#endif

static int holds(const State *run)
{
    const Settings *set = &run->settings;
    const int both = set->rule == NETWORK_BOTH, predicted = share(run->open_active, run->active) <= set->open_bound;
    if (both || set->rule == NETWORK_CONFIDENCE)
        return (predicted || !both) && network_margin(run) >= set->gap_bound;
    return set->rule == NETWORK_ALL_PREDICTED ? predicted : set->rule == NETWORK_ENTROPY && entropy(run) <= set->entropy_bound;
}

/* --- a timestep */

int network_arrive(State *run, const int32_t *events, int32_t count)
{
    if (run->network->node[0].valued)
        run->input_events = events, run->input_values = 0, run->input_count = count, run->unproven = 1;
    return run->network->node[0].valued;
}

int network_step(State *run)
{
    const NetworkTables *network = run->network;
    int32_t i;
    silence(run, 0);
    for (i = 0; i < network->feedback && !run->settings.feedback; i++)
        silence(run, network->order[network->forward + i]);
    encode(run);
    for (i = 0; i < network->forward; i++)
        propagate(run, network->order[i]);
    if (run->settings.feedback)
        decode(run);
    for (i = 0; i < network->nodes; i++)
        if (network->node[i].kind == NETWORK_RELAY)
            clear(run, i);
    run->steps++;
    return holds(run);
}

/* --- another image takes the place of the one before */

/* Reset on change: of an image of whose active pixels a share r has opened, 1 - min(1, gain r) is kept of all membranes, outputs
   and predictions, of those pixels' predictions nothing; then all are judged anew. */
static void reset_on_change(State *run)
{
    float change, keep;
    int32_t i, opened = 0, active = 0;
    for (i = 0; i < run->pixels; i++) {
        active += x_of(run, run->image[i]) != 0;
        opened += x_of(run, run->image[i]) != 0 && run->is_open[i] && !run->scratch[i];
    }
    change = run->settings.surprise * share(opened, active);
    keep = 1 - (change < 1 ? change : 1);
    for (i = 1; i < run->network->nodes; i++)
        forget(run, i, keep);
    run->subtracts_prediction = run->settings.residual;
    for (i = 0; i < run->pixels; i++)
        run->readout_sum[i] = run->is_open[i] && !run->scratch[i] ? 0 : run->readout_sum[i] * keep;
    predict(run, 0, run->pixels);
    gate(run, 0, run->pixels);
}

int network_streams(const State *run)
{
    int32_t n, counts = 0;
    for (n = 0; n < run->network->nodes; n++)
        counts |= run->network->node[n].kind == NETWORK_COUNTING_POOL;
    return !counts && !run->settings.phase_steps;
}

/* One image: bytes, or x itself. */
static void show(State *run, const uint8_t *bytes, const pixel_t *numbers)
{
    const int32_t channels = run->network->node[0].channels, colour = run->network->colour;
    const int judges = run->begun && run->settings.feedback;
    int32_t first, i, opens = 0, differs = !run->begun;
    for (first = 0; first < run->pixels; first += channels) {
        int any = 0;
        for (i = first; i < first + channels; i++) {
            const pixel_t x = numbers ? numbers[i] : IS_SMALL ? bytes[i] : (pixel_t)scaled((float)bytes[i] / 255, colour);
            const int other = x != run->image[i];
            run->scratch[i] = run->is_open[i];
            run->image[i] = x;
            any |= other;
            if (judges && other && !run->settings.per_pixel)
                gate(run, i, i + 1);
        }
        if (judges && any && run->settings.per_pixel)
            gate(run, first, first + channels);
        differs |= any;
    }
    for (i = 0; i < run->pixels; i++)
        opens |= run->is_open[i] && !run->scratch[i];
    if (opens && run->settings.surprise > 0)
        reset_on_change(run);
    if (differs)
        list_sending(run);
    run->begun = 1;
}

int network_show(State *run, const uint8_t *pixels)
{
    if (run->begun && !network_streams(run))
        return 0;
    show(run, pixels, 0);
    return 1;
}

/* --- a run */

void network_reset(State *run, uint32_t key0, uint32_t key1, uint32_t image)
{
    const NetworkTables *network = run->network;
    int32_t n, i;
    size_t j;
    run->key[0] = key0, run->key[1] = key1, run->number = image;
    run->steps = 0;
    run->begun = run->subtracts_prediction = run->unproven = 0;
    run->look_again = 1;
    for (n = 0; n < network->nodes; n++) {
        const Node *node = &network->node[n];
        const potential_t start = constant(run, n, NETWORK_START);
        Part *const part = &run->part[n], at = *part; /* locals: whole numbers that are written might be fields */
        const size_t neurons = part->v ? neurons_of(node) : 0;
        silence(run, n);
        for (j = 0; j < neurons; j++)
            set_v(&at, j, start);
        clear_words(part->listed, part->listed ? (size_t)(node->height * part->row_words) : 0);
        clear_words(part->decayed, part->decayed ? places_of(node) : 0);
        clear_words(part->passed, part->passed ? neurons_of(node) : 0);
        part->busy = 0;
        if (n > 0 && node->kind == NETWORK_NEURONS && start > constant(run, n, NETWORK_THRESHOLD))
            touch(run, n, 0, node->height, 0, node->width, 0);
    }
    for (i = 0; i < run->pixels; i++) {
        run->is_open[i] = 1;
        run->predicted[i] = 0;
        run->image[i] = run->readout_sum[i] = 0;
    }
    predict(run, 0, run->pixels);
    for (i = 0; i < run->classes; i++)
        run->logits[i] = 0;
    list_sending(run);
}

void network_settle(State *run)
{
    int32_t n;
    for (n = 1; n < run->network->nodes; n++)
        forget(run, n, 1);
}

int network_set(State *run, const Settings *settings)
{
    const NetworkTables *network = run->network;
    int32_t i;
    if (!fits(network, settings))
        return 0;
    run->settings = *settings;
    for (i = 0; !settings->feedback && i < run->pixels; i++)
        run->is_open[i] = 1, run->predicted[i] = 0;
    run->subtracts_prediction = run->subtracts_prediction && settings->feedback;
    for (i = 1; i < network->nodes; i++)
        if (network->node[i].kind == NETWORK_NEURONS)
            touch(run, i, 0, network->node[i].height, 0, network->node[i].width, run->steps);
    predict(run, 0, run->pixels);
    run->look_again = 1;
    list_sending(run);
    return 1;
}

/* --- what there is to see */

int network_answer(const State *run)
{
    int32_t o, best = 0;
    for (o = 1; o < run->classes; o++)
        best = run->logits[o] > run->logits[best] ? o : best;
    return best;
}

float network_margin(const State *run)
{
    const int32_t best = network_answer(run);
    float second = -FLT_MAX;
    int32_t o;
    for (o = 0; o < run->classes; o++)
        second = o != best && run->logits[o] > second ? run->logits[o] : second;
    return run->logits[best] - second;
}

int network_layer_size(const State *run, int layer) { return (int)neurons_of(&run->network->node[layer]); }
uint32_t network_spikes(const State *run, int layer) { return run->part[layer].count; }
potential_t network_threshold(const State *run, int layer) { return constant(run, layer, NETWORK_THRESHOLD); }

int network_spiked(const State *run, int layer, int neuron)
{
    const Node *node = &run->network->node[layer];
    const int32_t channel = neuron % node->channels, place = neuron / node->channels;
    return word_at(&run->part[layer], (size_t)(place * run->part[layer].words + channel / 32)) >> channel % 32 & 1;
}

potential_t network_potential(const State *run, int layer, int neuron)
{
    const int32_t channels = run->network->node[layer].channels, place = neuron / channels;
    const potential_t *const own = own_values(run, layer, NETWORK_LEAK, (size_t)place);
    const Part *part = &run->part[layer];
    const potential_t leak = own ? own[neuron % channels] : constant(run, layer, NETWORK_LEAK);
    const potential_t v = layer > 0 ? faded(v_at(part, (size_t)neuron), leak, part->decayed ? run->steps - part->decayed[place] : 0) : 0;
    return layer > 0 ? bounded(v, constant(run, layer, NETWORK_FLOOR), constant(run, layer, NETWORK_CEILING)) : v;
}

const char *network_layer_name(const State *run, int layer)
{
    const char *name = run->network->names;
    while (layer-- > 0)
        while (*name++)
            ;
    return name;
}
