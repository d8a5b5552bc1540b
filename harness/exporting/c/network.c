/* The network's timestep, event by event, in the order encode, propagate, read out, gate. network.h says what it is called for,
   layout.h how weights lie in memory. V: membrane potential, theta: threshold, s: spike, x: pixel, p: its prediction. */
#include "network.h"
#include "layout.h"

#include <float.h>
#include <math.h>

enum { LANES = sizeof(weight_t) > 1 ? 8 : 16 }; /* weights added at once, so many that compilers make vectors of them */
enum { ONES, SHORT, LONG }; /* values that weights are multiplied by */
enum { SMALL = 64 }; /* a window with so few weights is added up before it is added to V */
enum { THRESHOLD, LEAK, START, FLOOR, CEILING, CONSTANTS }; /* of each node, in network_constants */
#define CONSTANT(n, which) network_constants[CONSTANTS * (n) + (which)]
#define EVALUATION 0xFFFFFFFFu /* the counter's word "epoch" of random numbers drawn in evaluation */

/* --- state: all that changes from step to step */

static potential_t v[NETWORK_POTENTIALS];    /* by neuron, the channels of a place side by side; of relays the sums to pass on */
static uint32_t spikes[NETWORK_WORDS];       /* a bit for each neuron that sent something in this step, 32 channels to a word */
static uint32_t listed[NETWORK_PLACES / 32]; /* a bit for each place that something has reached: V may be above theta there */
static uint32_t decayed[NETWORK_DECAYED];    /* by place: steps whose leak its membranes have had */
static uint32_t sent[NETWORK_SENT];          /* by neuron before and behind a counting pool: its spikes so far */
static uint32_t counts[NETWORK_NODES];       /* events of each node in this step */
static int32_t rows[NETWORK_ROWS];           /* weights that go to one window, and the values that they are multiplied by */
static potential_t values[NETWORK_ROWS];

static float image[NETWORK_PIXELS];          /* x, on its scale */
static uint8_t is_open[NETWORK_PIXELS];      /* whether the input neuron may spike */
static float readout_sum[NETWORK_PIXELS];    /* R */
static float prediction[NETWORK_PIXELS];     /* p on the image's scale, as the gate compares it */
static float logits[NETWORK_CLASSES];        /* O */

static uint32_t key[2], number, steps, decodes;
static int begun;      /* an image has been shown since the reset */
static int look_again; /* all pixels are to be judged at the decoder's next step, those that it has not moved, too */
static int explained;  /* residual: what is predicted is taken away from what is sent */

/* --- numbers */

#if defined(__GNUC__) || defined(__clang__)
#define lowest(bits) ((int32_t)__builtin_ctz(bits)) /* number of the lowest bit that is set, of a word that is not 0 */
#else
static int32_t lowest(uint32_t bits)
{
    int32_t bit = 0;
    for (; !(bits & 1); bits >>= 1)
        bit++;
    return bit;
}
#endif

static float absolute(float x) { return x < 0 ? -x : x; }

/* tanh by float32 operations alone, so that all machines agree: a polynomial near 0, else 1 - 2 / (exp(2 |x|) + 1), with
   exp(r + n ln 2) = 2^n exp(r) (polynomials of Cephes, S. Moshier). */
static float portable_tanh(float x)
{
    const float a = absolute(x), z = x * x;
    float r, e;
    int32_t n;
    if (a < 0.625f) {
        e = -5.70498872745e-3f * z + 2.06390887954e-2f;
        e = e * z - 5.37397155531e-2f;
        e = e * z + 1.33314422036e-1f;
        e = e * z - 3.33332819422e-1f;
        return e * z * x + x;
    }
    if (!(a <= 9))
        return x < 0 ? -1.0f : 1.0f;
    r = 2 * a;
    n = (int32_t)(r * 1.44269504f + 0.5f);
    r = r - (float)n * 0.693359375f;
    r = r - (float)n * -2.12194440e-4f;
    e = 1.9875691500e-4f * r + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * (r * r) + r + 1;
    for (; n > 0; n--)
        e = e * 2;
    e = 1 - 2 / (e + 1);
    return x < 0 ? -e : e;
}

static float sigmoid(float x) { return (1 + portable_tanh(x / 2)) / 2; }

/* Philox 4x32-10 (Salmon et al., SC 2011): four words of the counter (block of 4 pixels, step, image, epoch) and the key. */
static void philox(uint32_t block, uint32_t words[4])
{
    uint32_t a = block, b = steps, c = number, d = EVALUATION, k0 = key[0], k1 = key[1];
    int round;
    for (round = 0; round < 10; round++) {
        const uint64_t p = (uint64_t)0xD2511F53u * a, q = (uint64_t)0xCD9E8D57u * c;
        a = (uint32_t)(q >> 32) ^ b ^ k0;
        c = (uint32_t)(p >> 32) ^ d ^ k1;
        b = (uint32_t)q;
        d = (uint32_t)p;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = a, words[1] = b, words[2] = c, words[3] = d;
}

#ifdef NETWORK_INT8
typedef int16_t factor_t;  /* of two, compilers make products of vectors sooner than of 32 bits */
enum { LEAK_ONE = 32768 }; /* a leak in 2^15ths */

/* floor(share x), share in 2^15ths */
static potential_t leaked(potential_t x, potential_t share)
{
    const int64_t product = (int64_t)x * share;
    return (potential_t)(product >= 0 ? product / LEAK_ONE : -((LEAK_ONE - 1 - product) / LEAK_ONE));
}

static potential_t kept(potential_t x, float keep) { return leaked(x, (potential_t)(keep * LEAK_ONE)); }

/* x in 255ths, a whole number again; of two that are as near the even one */
static potential_t current_of(float x)
{
    const float size = absolute(x) * 255;
    potential_t whole = (potential_t)size;
    if (size - (float)whole > 0.5f || (size - (float)whole == 0.5f && whole % 2))
        whole++;
    return x < 0 ? -whole : whole;
}
#else
typedef float factor_t;
enum { LEAK_ONE = 1 };

static potential_t leaked(potential_t x, potential_t leak) { return leak * x; }
static potential_t kept(potential_t x, float keep) { return keep * x; }
static potential_t current_of(float x) { return x; }
#endif

/* x of a byte: 0 to 1, in colour -1 to 1 */
static float pixel_of(uint8_t byte)
{
    const float x = (float)byte / 255;
    return network_header.colour ? x * 2 - 1 : x;
}

/* --- a node */

static int32_t places_of(const Node *node) { return node->height * node->width; }
static int32_t words_of(const Node *node) { return (node->channels + 31) / 32; }
static uint32_t *spikes_of(const Node *node, int32_t place) { return &spikes[node->first_word + place * words_of(node)]; }
static potential_t *v_of(const Node *node, int32_t place) { return &v[node->first_v + place * node->channels]; }
static uint32_t *listed_of(const Node *node, int32_t place) { return &listed[(node->first_place + place) / 32]; }
static int is_listed(const Node *node, int32_t place) { return *listed_of(node, place) >> place % 32 & 1; }

/* Nothing is sent. */
static void silence(int n)
{
    const Node *node = &network_nodes[n];
    int32_t i;
    for (i = 0; counts[n] && i < places_of(node) * words_of(node); i++)
        spikes_of(node, 0)[i] = 0;
    counts[n] = 0;
}

/* V <- 0, and no place is listed. */
static void clear(int n)
{
    const Node *node = &network_nodes[n];
    int32_t i;
    for (i = 0; i < places_of(node) * node->channels; i++)
        v_of(node, 0)[i] = 0;
    for (i = 0; i < places_of(node); i += 32)
        *listed_of(node, i) = 0;
}

/* V <- leak V, for each step of this clock that a place's membranes have missed, until nothing changes any more. */
static void decay(int n, int32_t place, uint32_t clock)
{
    const Node *node = &network_nodes[n];
    const potential_t leak = CONSTANT(n, LEAK);
    potential_t *const at = v_of(node, place);
    uint32_t missed;
    int32_t o;
    int moves = 1;
    if (leak == LEAK_ONE || node->kind != NEURONS)
        return;
    for (missed = clock - decayed[node->first_place + place]; moves && missed > 0; missed--)
        for (o = 0, moves = 0; o < node->channels; o++) {
            const potential_t next = leaked(at[o], leak);
            moves |= next != at[o];
            at[o] = next;
        }
    decayed[node->first_place + place] = clock;
}

/* V <- V, at least the floor, at most the ceiling. */
static void bound(int n, int32_t place)
{
    const Node *node = &network_nodes[n];
    const potential_t least = CONSTANT(n, FLOOR), most = CONSTANT(n, CEILING);
    potential_t *const at = v_of(node, place);
    int32_t o;
    for (o = 0; o < node->channels; o++)
        at[o] = at[o] < least ? least : at[o] > most ? most : at[o];
}

/* Leak and bounds of a place are brought up to date, which the steps leave to whoever asks for its potentials next. */
static void settle(int n, int32_t place)
{
    int32_t i = 0;
    while (network_order[i] != n)
        i++;
    decay(n, place, i < network_header.forward ? steps : decodes);
    bound(n, place);
}

/* Places first to last - 1 become candidates; their leak is brought up to date. */
static void touch(int n, int32_t first, int32_t last, uint32_t clock)
{
    const Node *node = &network_nodes[n];
    int32_t place;
    for (place = first; place < last; place++) {
        *listed_of(node, place) |= (uint32_t)1 << place % 32;
        decay(n, place, clock);
    }
}

/* --- encode */

/* poisson: s = sign(x) if u <= |x|, u a random number in [0, 1); direct: s = x, in whole numbers rounded, which may leave 0 and
   then is no event. Of open pixels alone; where a prediction is taken away (residual), x - p takes the place of x. */
static void encode(void)
{
    const Node *node = &network_nodes[0];
    uint32_t random[4] = {0, 0, 0, 0};
    int32_t pixel, block = -1;
    if (network_header.phase && steps >= (uint32_t)network_header.phase)
        return; /* the image is sent in the first phase */
    for (pixel = 0; pixel < NETWORK_PIXELS; pixel++) {
        const float x = explained ? image[pixel] - prediction[pixel] : image[pixel];
        const potential_t s = network_header.encoding == DIRECT ? current_of(x) : (x > 0) - (x < 0);
        const int32_t place = pixel / node->channels, channel = pixel % node->channels;
        if (!is_open[pixel] || s == 0)
            continue;
        if (network_header.encoding == POISSON) {
            if (pixel / 4 != block)
                philox((uint32_t)(block = pixel / 4), random);
            if ((float)(int32_t)(random[pixel % 4] >> 8) * 5.9604644775390625e-8f > absolute(x)) /* 24 bits of it, times 2^-24 */
                continue;
        }
        if (node->valued)
            v_of(node, place)[channel] = s;
        spikes_of(node, place)[channel / 32] |= (uint32_t)1 << channel % 32;
        counts[0]++;
    }
}

/* --- propagate: charge, fire, reset */

/* to[i] += the sum of values[r] weights[rows[r] + i], in this order, for LANES of i at once. kind: all values are 1, or factor_t
   holds them, or not. */
static void add_lanes(potential_t *to, const weight_t *weights, int32_t count, int kind)
{
    potential_t sum[LANES];
    int32_t j, r;
    for (j = 0; j < LANES; j++)
        sum[j] = to[j];
    for (r = 0; r < count && kind == ONES; r++)
        for (j = 0; j < LANES; j++)
            sum[j] += weights[rows[r] + j];
    for (r = 0; r < count && kind == SHORT; r++) {
        const factor_t value = (factor_t)values[r];
        for (j = 0; j < LANES; j++)
            sum[j] += value * (factor_t)weights[rows[r] + j];
    }
    for (r = 0; r < count && kind == LONG; r++)
        for (j = 0; j < LANES; j++)
            sum[j] += values[r] * weights[rows[r] + j];
    for (j = 0; j < LANES; j++)
        to[j] = sum[j];
}

/* The same for i below size. */
static void add_rows(potential_t *to, const weight_t *weights, int32_t count, int32_t size, int kind)
{
    int32_t i = 0, r;
    for (; i + LANES <= size; i += LANES)
        add_lanes(to + i, weights + i, count, kind);
    for (; i < size; i++)
        for (r = 0; r < count; r++)
            to[i] += values[r] * weights[rows[r] + i];
}

/* V <- V + W s for `count` windows of weights (rows, values), whose corner lies at (row, column) and may stick out over the
   border. */
static void add_windows(int n, int32_t row, int32_t column, int32_t count, uint32_t clock)
{
    const Node *node = &network_nodes[n];
    const int32_t top = row < 0 ? -row : 0, left = column < 0 ? -column : 0;
    const int32_t bottom = node->side < node->height - row ? node->side : node->height - row;
    const int32_t right = node->side < node->width - column ? node->side : node->width - column;
    const int32_t size = (right == node->side ? node->row : right * node->channels) - left * node->channels;
    const int32_t block = node->side * node->row;
    const int small = count > 1 && block <= SMALL;
    int kind = network_nodes[node->source].valued ? SHORT : ONES;
    potential_t window[SMALL];
    int32_t y, i;
    for (i = 0; kind && i < count; i++)
        kind = (potential_t)(factor_t)values[i] == values[i] ? kind : LONG;
    if (small) { /* add them all up first */
        for (i = 0; i < block; i++)
            window[i] = 0;
        add_rows(window, network_weights, count, block, kind);
    }
    for (y = top; y < bottom; y++) {
        const int32_t first = (row + y) * node->width + column + left, shift = y * node->row + left * node->channels;
        potential_t *const to = v_of(node, first);
        touch(n, first, first + right - left, clock);
        for (i = 0; small && i < size; i++)
            to[i] += window[shift + i];
        if (!small)
            add_rows(to, network_weights + shift, count, size, kind);
    }
}

/* V <- V + W s for all spikes s of the source, those of one window after the other; or V <- V + s, where the link is the same. */
static void add_spikes(int n, uint32_t clock)
{
    const Node *node = &network_nodes[n], *from = &network_nodes[node->source];
    const int32_t block = node->side * node->row, halvings = node->halvings, within = (1 << halvings) - 1;
    const int32_t height = from->height >> halvings << halvings, width = from->width >> halvings << halvings; /* odd: lost */
    int32_t count = 0, row = 0, column = 0, y, x, w;
    for (y = 0; y < (node->link == LINEAR ? from->height : height); y++)
        for (x = 0; x < (node->link == LINEAR ? from->width : width); x++) {
            const int32_t place = y * from->width + x;
            const uint32_t *const sends = spikes_of(from, place);
            int32_t phase = place, next_row = 0, next_column = 0;
            uint32_t any = 0;
            for (w = 0; w < words_of(from); w++)
                any |= sends[w];
            if (!any)
                continue;
            if (node->link != LINEAR) {
                phase = ((y & within) << halvings) + (x & within);
                next_row = (y >> halvings) * (1 << node->doublings) - node->padding;
                next_column = (x >> halvings) * (1 << node->doublings) - node->padding;
            }
            if (count && (next_row != row || next_column != column)) {
                add_windows(n, row, column, count, clock);
                count = 0;
            }
            row = next_row, column = next_column;
            if (node->link == SAME)
                touch(n, row * node->width + column, row * node->width + column + 1, clock);
            for (w = 0; w < words_of(from); w++) {
                uint32_t bits = sends[w];
                for (; bits; bits &= bits - 1) {
                    const int32_t channel = 32 * w + lowest(bits);
                    const potential_t s = from->valued ? v_of(from, place)[channel] : 1;
                    if (node->link == SAME) {
                        v_of(node, row * node->width + column)[channel] += s;
                        continue;
                    }
                    if (count == NETWORK_ROWS) {
                        add_windows(n, row, column, count, clock);
                        count = 0;
                    }
                    rows[count] = node->first_weight + (phase * from->channels + channel) * block;
                    values[count++] = s;
                }
            }
        }
    if (count)
        add_windows(n, row, column, count, clock);
}

/* Phased: -1 in the phase in which a node charges, while its source fires, and 0 in the next, in which it fires itself. */
static int32_t turn(int n)
{
    return network_header.phase ? (int32_t)steps / network_header.phase - network_nodes[n].depth : 0;
}

/* V <- leak V + b + W s */
static void charge(int n, uint32_t clock)
{
    const Node *node = &network_nodes[n];
    int32_t i;
    if (node->first_bias && (!network_header.phase || turn(n) == -1)) {
        touch(n, 0, places_of(node), clock);
        for (i = 0; i < places_of(node) * node->channels; i++)
            v_of(node, 0)[i] += network_constants[node->first_bias + i % node->channels];
    }
    if (counts[node->source])
        add_spikes(n, clock);
}

/* s = 1 where V > theta, and there V <- V - theta: at candidates, which stay so where V is still above theta, or below the floor.
   clock: steps whose leak the potential has had that is compared. A delayed neuron leaks before its reset. */
static void fire(int n, uint32_t clock)
{
    const Node *node = &network_nodes[n];
    const potential_t theta = CONSTANT(n, THRESHOLD), least = CONSTANT(n, FLOOR), most = CONSTANT(n, CEILING);
    int32_t first, w, o;
    for (first = 0; first < places_of(node); first += 32) {
        uint32_t bits = *listed_of(node, first), keep = 0;
        for (; bits; bits &= bits - 1) {
            const int32_t place = first + lowest(bits);
            uint32_t *const sends = spikes_of(node, place);
            decay(n, place, clock);
            if (least > -FLT_MAX)
                bound(n, place);
            for (w = 0; w < words_of(node); w++) {
                const int32_t channels = node->channels - 32 * w < 32 ? node->channels - 32 * w : 32;
                const potential_t *const at = v_of(node, place) + 32 * w;
                uint32_t fired = 0;
                for (o = 0; o < channels; o++)
                    fired |= (uint32_t)(at[o] > theta) << o;
                sends[w] = fired;
            }
            for (w = 0; w < words_of(node); w++) {
                uint32_t fired = sends[w];
                if (fired && !network_header.immediate)
                    decay(n, place, clock + 1);
                for (; fired; fired &= fired - 1) {
                    potential_t *const neuron = v_of(node, place) + 32 * w + lowest(fired);
                    *neuron = *neuron - theta < most ? *neuron - theta : most;
                    counts[n]++;
                    if (*neuron > theta || *neuron < least)
                        keep |= (uint32_t)1 << (place - first);
                }
            }
        }
        *listed_of(node, first) = keep;
    }
}

/* The sums of a relay, or of what waits for the decoder, become events whose values they are. */
static void release(int n)
{
    const Node *node = &network_nodes[n];
    int32_t place, o;
    for (place = 0; place < places_of(node); place++)
        for (o = 0; is_listed(node, place) && o < node->channels; o++)
            if (v_of(node, place)[o] != 0) {
                spikes_of(node, place)[o / 32] |= (uint32_t)1 << o % 32;
                counts[n]++;
            }
}

/* A 2 x 2 maximum pool: a spike passes where any of its four neurons spikes (an odd row or column is left out), or, where it
   counts, where the highest spike count of the four rises. */
static void pool(int n)
{
    const Node *node = &network_nodes[n], *from = &network_nodes[node->source];
    int32_t y, x, w;
    for (y = 0; counts[node->source] && y < 2 * node->height; y++)
        for (x = 0; x < 2 * node->width; x++) {
            const int32_t source = y * from->width + x, place = y / 2 * node->width + x / 2;
            for (w = 0; w < words_of(node); w++) {
                uint32_t bits = spikes_of(from, source)[w], *const passed = &spikes_of(node, place)[w];
                for (; bits; bits &= bits - 1) {
                    const int32_t channel = 32 * w + lowest(bits);
                    const uint32_t bit = bits & (~bits + 1);
                    if (node->kind == COUNTING_POOL) {
                        uint32_t *const its = &sent[from->first_sent + source * node->channels + channel];
                        uint32_t *const highest = &sent[node->first_sent + place * node->channels + channel];
                        *its += from->kind != COUNTING_POOL; /* which has counted what it let through */
                        if (*its <= *highest)
                            continue;
                        ++*highest;
                    }
                    counts[n] += !(*passed & bit);
                    *passed |= bit;
                }
            }
        }
}

/* One step of a node. clock: steps of its part of the network before. */
static void run(int n, uint32_t clock)
{
    const Node *node = &network_nodes[n];
    int32_t o;
    silence(n);
    switch (node->kind) {
    case NEURONS:
        if (network_header.immediate)
            charge(n, clock + 1);
        if (turn(n) == 0)
            fire(n, clock + (uint32_t)network_header.immediate);
        if (!network_header.immediate)
            charge(n, clock + 1);
        break;
    case OUTPUT: /* O <- mu O + W s */
        for (o = 0; o < node->channels; o++)
            v_of(node, 0)[o] = leaked(v_of(node, 0)[o], CONSTANT(n, LEAK));
        charge(n, 0);
        bound(n, 0);
        break;
    case RELAY:
    case DECODED:
        clear(n);
        charge(n, 0);
        if (node->kind == RELAY)
            release(n);
        break;
    case WAITING:
        if (network_settings.feedback)
            charge(n, 0);
        break;
    default:
        pool(n);
    }
}

/* --- read out */

/* p on the image's scale, from R */
static void predict(int32_t pixel)
{
    const float r = readout_sum[pixel], least = network_header.colour ? -1.0f : 0.0f;
    if (network_header.readout == MEMBRANE_LINEAR)
        prediction[pixel] = r < least ? least : r > 1 ? 1 : r;
    else if (network_header.colour)
        prediction[pixel] = portable_tanh(r);
    else
        prediction[pixel] = network_header.readout == MEMBRANE ? sigmoid(r) : 2 * sigmoid(r) - 1;
}

/* R <- rho R + d, held where a pixel is blocked (latch); with a slew limit sigma, sigma tanh(d / sigma) takes the place of d. */
static void read_out(int32_t pixel)
{
    const float slew = network_settings.readout_slew;
    float d = (float)v[network_nodes[network_header.decoded].first_v + pixel] * network_settings.decoded_scale;
    if (network_settings.latch && !is_open[pixel])
        return;
    if (slew > 0)
        d = slew * portable_tanh(d / slew);
    readout_sum[pixel] = network_settings.readout_leak * readout_sum[pixel] + d;
    predict(pixel);
}

/* --- gate */

/* A pixel is predicted where |p - x| < epsilon; then its input neuron is blocked, for good, or until it is not (dynamic). Where
   the channels of a place count together, all of them are judged with the last. */
static void gate(int32_t pixel)
{
    const int32_t channels = network_header.together ? network_nodes[0].channels : 1, first = pixel + 1 - channels;
    int32_t each;
    int predicted = 1;
    if ((pixel + 1) % channels)
        return;
    for (each = first; each <= pixel; each++)
        predicted &= absolute(prediction[each] - image[each]) < network_settings.epsilon;
    for (each = first; each <= pixel; each++)
        is_open[each] = !predicted && (network_settings.dynamic || is_open[each]);
}

/* The decoder's step, on the spikes of this step, or on all since it last ran; then the pixels that it has reached are read out
   and judged, or all of them. */
static void decode(void)
{
    const Node *node = &network_nodes[network_header.decoded];
    const int everywhere = look_again || network_settings.readout_leak != 1;
    int32_t i, pixel;
    if (network_header.waiting >= 0)
        release(network_header.waiting);
    for (i = 0; i < network_header.feedback; i++)
        run(network_order[network_header.forward + i], decodes);
    if (network_header.waiting >= 0)
        clear(network_header.waiting);
    for (pixel = 0; pixel < NETWORK_PIXELS; pixel++)
        if (everywhere || is_listed(node, pixel / node->channels)) {
            read_out(pixel);
            gate(pixel);
        }
    decodes++;
    look_again = 0;
    explained = network_header.residual;
}

/* --- stopping rules */

/* Of the pixels that are not 0, the share of those that are open, and were not, if was_open is given. */
static float open_share(const uint8_t *was_open)
{
    int32_t pixel, open_active = 0, active = 0;
    for (pixel = 0; pixel < NETWORK_PIXELS; pixel++) {
        active += image[pixel] != 0;
        open_active += image[pixel] != 0 && is_open[pixel] && !(was_open && was_open[pixel]);
    }
    return (float)open_active / (float)(active > 1 ? active : 1);
}

/* The entropy of softmax(O) as a part of its largest value; in double, by this machine's exp and log. */
static float entropy(void)
{
    const float best = logits[network_answer()];
    double total = 0, weighted = 0;
    int32_t o;
    for (o = 0; o < NETWORK_CLASSES; o++) {
        const double above = (double)(logits[o] - best), p = exp(above);
        total += p;
        weighted += p * above;
    }
    return (float)((log(total) - weighted / total) / log((double)NETWORK_CLASSES));
}

static int holds(void)
{
    const int sure = network_margin() >= network_settings.gap_bound;
    switch (network_settings.rule) {
    case RULE_CONFIDENCE:
        return sure;
    case RULE_ENTROPY:
        return entropy() <= network_settings.entropy_bound;
    case RULE_ALL_PREDICTED:
        return open_share(0) <= network_settings.open_bound;
    case RULE_BOTH:
        return sure && open_share(0) <= network_settings.open_bound;
    default:
        return 0;
    }
}

/* --- another image takes the place of the one before */

/* Membranes, as far as they are from rest, and outputs keep so much. */
static void forget(float keep)
{
    int32_t i, place, o;
    for (i = 0; i < network_header.forward + network_header.feedback; i++) {
        const int32_t n = network_order[i];
        const Node *node = &network_nodes[n];
        for (place = 0; (node->kind == NEURONS || node->kind == OUTPUT) && place < places_of(node); place++) {
            settle(n, place);
            for (o = 0; o < node->channels; o++)
                v_of(node, place)[o] = CONSTANT(n, START) + kept(v_of(node, place)[o] - CONSTANT(n, START), keep);
        }
    }
}

/* Reset on change: of an image of whose active pixels a share r has opened, 1 - min(1, gain r) is kept of all membranes, outputs
   and predictions, of those pixels' predictions nothing; then all are judged anew. */
static void reset_on_change(const uint8_t *was_open)
{
    const float change = network_settings.surprise * open_share(was_open), keep = 1 - (change < 1 ? change : 1);
    int32_t pixel;
    forget(keep);
    explained = network_header.residual;
    for (pixel = 0; pixel < NETWORK_PIXELS; pixel++) {
        readout_sum[pixel] = is_open[pixel] && !was_open[pixel] ? 0 : readout_sum[pixel] * keep;
        predict(pixel);
    }
    for (pixel = 0; pixel < NETWORK_PIXELS; pixel++)
        gate(pixel);
}

int network_streams(void)
{
    int32_t n;
    for (n = 0; n < network_header.nodes; n++)
        if (network_nodes[n].kind == COUNTING_POOL)
            return 0;
    return !network_header.phase;
}

int network_show(const uint8_t *pixels)
{
    static uint8_t was_open[NETWORK_PIXELS];
    const int32_t channels = network_nodes[0].channels;
    int32_t first, pixel;
    int opens = 0;
    if (begun && !network_streams())
        return 0;
    for (first = 0; first < NETWORK_PIXELS; first += channels) {
        int any = 0;
        for (pixel = first; pixel < first + channels; pixel++) {
            was_open[pixel] = is_open[pixel];
            any |= pixel_of(pixels[pixel]) != image[pixel];
        }
        for (pixel = first; pixel < first + channels; pixel++) {
            const int differs = network_header.together ? any : pixel_of(pixels[pixel]) != image[pixel];
            image[pixel] = pixel_of(pixels[pixel]);
            if (begun && differs && network_settings.feedback)
                gate(pixel);
        }
    }
    for (pixel = 0; pixel < NETWORK_PIXELS; pixel++)
        opens |= is_open[pixel] && !was_open[pixel];
    if (opens && network_settings.surprise > 0)
        reset_on_change(was_open);
    begun = 1;
    return 1;
}

/* --- a run */

void network_reset(uint32_t key0, uint32_t key1, uint32_t image_number)
{
    int32_t n, i;
    key[0] = key0, key[1] = key1, number = image_number;
    steps = decodes = 0;
    begun = explained = 0;
    look_again = 1;
    for (n = 0; n < network_header.nodes; n++) {
        const Node *node = &network_nodes[n];
        counts[n] = 0;
        for (i = 0; node->first_v >= 0 && i < places_of(node) * node->channels; i++)
            v_of(node, 0)[i] = CONSTANT(n, START);
    }
    for (i = 0; i < NETWORK_WORDS; i++)
        spikes[i] = 0;
    for (i = 0; i < NETWORK_PLACES / 32; i++)
        listed[i] = 0;
    for (i = 0; i < NETWORK_DECAYED; i++)
        decayed[i] = 0;
    for (i = 0; i < NETWORK_SENT; i++)
        sent[i] = 0;
    for (i = 0; i < NETWORK_PIXELS; i++) {
        is_open[i] = 1;
        image[i] = readout_sum[i] = 0;
        predict(i);
    }
    for (i = 0; i < NETWORK_CLASSES; i++)
        logits[i] = 0;
}

int network_step(void)
{
    int32_t i;
    for (i = 0; i < network_header.layers; i++)
        silence(i);
    encode();
    for (i = 0; i < network_header.forward; i++)
        run(network_order[i], steps);
    if (network_settings.feedback && (steps + 1) % (uint32_t)network_header.interval == 0)
        decode();
    for (i = 0; i < NETWORK_CLASSES; i++)
        logits[i] = (float)v[network_nodes[network_header.output].first_v + i] * network_settings.logits_scale;
    steps++;
    return holds();
}

int network_answer(void)
{
    int32_t o, best = 0;
    for (o = 1; o < NETWORK_CLASSES; o++)
        best = logits[o] > logits[best] ? o : best;
    return best;
}

float network_margin(void)
{
    const int32_t best = network_answer();
    float second = -FLT_MAX;
    int32_t o;
    for (o = 0; o < NETWORK_CLASSES; o++)
        second = o != best && logits[o] > second ? logits[o] : second;
    return logits[best] - second;
}

/* --- what there is to see */

const float *network_logits(void) { return logits; }
const uint8_t *network_open(void) { return is_open; }
const float *network_prediction(void) { return prediction; }
const float *network_seen(void) { return image; }
int network_layer_size(int layer) { return places_of(&network_nodes[layer]) * network_nodes[layer].channels; }
uint32_t network_spikes(int layer) { return counts[layer]; }
potential_t network_threshold(int layer) { return CONSTANT(layer, THRESHOLD); }

potential_t network_potential(int layer, int neuron)
{
    const Node *node = &network_nodes[layer];
    if (layer == 0)
        return 0;
    settle(layer, neuron / node->channels);
    return v_of(node, 0)[neuron];
}

int network_spiked(int layer, int neuron)
{
    const Node *node = &network_nodes[layer];
    const int32_t channel = neuron % node->channels;
    return spikes_of(node, neuron / node->channels)[channel / 32] >> channel % 32 & 1;
}

const char *network_layer_name(int layer)
{
    const char *name = network_names;
    while (layer-- > 0)
        while (*name++)
            ;
    return name;
}

/* --- settings */

void network_set_rule(int rule) { network_settings.rule = rule; }
void network_set_surprise(float gain) { network_settings.surprise = gain; }

void network_set_epsilon(float epsilon)
{
    network_settings.epsilon = epsilon;
    look_again = 1;
}

void network_set_dynamic(int dynamic)
{
    network_settings.dynamic = dynamic;
    look_again = 1;
}

void network_set_bound(float value)
{
    const int rule = network_settings.rule;
    *(rule == RULE_ENTROPY         ? &network_settings.entropy_bound
      : rule == RULE_ALL_PREDICTED ? &network_settings.open_bound
                                   : &network_settings.gap_bound) = value;
}

void network_set_feedback(int on)
{
    int32_t pixel;
    network_settings.feedback = on && network_header.decoded >= 0;
    for (pixel = 0; !on && pixel < NETWORK_PIXELS; pixel++)
        is_open[pixel] = 1;
    if (!on && network_header.waiting >= 0)
        clear(network_header.waiting);
    look_again = 1;
    explained = explained && on;
}
