/* How a network lies in memory: what network.c reads. The exporter writes it as weights.c, its sizes as weights.h, and for a
   build that serves any network (a page's) as the same fields, one after the other, 4 bytes each. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include "network.h"

#ifndef LAID
#define LAID const /* or nothing, where a program fills them in */
#endif

enum { NEURONS, OUTPUT, DECODED, RELAY, POOL, COUNTING_POOL, WAITING }; /* Node.kind */
enum { WINDOWS, LINEAR, SAME };                                         /* Node.link */
enum { POISSON, DIRECT };                                               /* Header.encoding */
enum { SPIKE_COUNT, SPIKE_COUNT_RESCALED, MEMBRANE, MEMBRANE_LINEAR, MEMBRANE_RESCALED }; /* Header.readout */

typedef struct {
    int32_t layers, nodes;               /* the first so many nodes are the layers; node 0 is the input */
    int32_t forward, feedback;           /* how many nodes of network_order run at every step, and then with the decoder */
    int32_t output, decoded, waiting;    /* nodes; -1: there is none */
    int32_t colour, immediate, encoding; /* colour: pixels lie in -1 to 1; immediate: charge first, then fire */
    int32_t readout, residual, together; /* residual: x - p is sent; together: a pixel's channels are judged at once */
    int32_t interval, timesteps, phase;  /* the decoder runs at every so manieth step; phase: see depth, 0: not phased */
} Header;

/* What happens at a node (kind) with what comes from its source (link): weights of windows, or of every place (linear), or the
   same value (of a place that lies there after `halvings`). A spike at (y, x) with b = 2^halvings has the phase (y % b) b + x % b
   and reaches the window whose corner is (y / b) 2^doublings - padding, columns likewise, `side` rows of `row` weights, target
   channels within columns, zeros at the end up to a multiple of 4. Weights: (phase, source channel, window row, row). A linear
   link has a phase for each place, and a window of one place. */
typedef struct {
    int32_t kind, link, source;
    int32_t height, width, channels;
    int32_t halvings, doublings, padding, side, row;
    int32_t valued;                              /* its events have values, which are its potentials; else each is 1 */
    int32_t first_v, first_word, first_place;    /* in v, in spikes (words of 32 channels of a place), among all places */
    int32_t first_weight, first_bias, first_sent; /* bias in network_constants, 0: none; sent: counters of counting pools */
    int32_t depth;                               /* phased: the number of the phase, of so many steps, in which it fires */
} Node;

typedef struct {
    float epsilon, open_bound, gap_bound, entropy_bound, readout_leak, readout_slew, surprise;
    float decoded_scale, logits_scale; /* what a whole number of these is worth; 1 in float32 */
    int32_t rule, dynamic, latch, feedback;
} Settings;

extern LAID Header network_header;
extern LAID Node network_nodes[];
extern LAID int32_t network_order[];         /* nodes in the order in which they run: forward, then feedback */
extern LAID potential_t network_constants[]; /* by node: threshold, leak (int8: times 2^15), start, floor, ceiling;
                                                then biases */
extern LAID weight_t network_weights[];
extern LAID char network_names[];            /* of the layers, each ending in 0 */
extern Settings network_settings;

#endif
