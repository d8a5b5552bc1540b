/* A spiking network with predictive feedback, event by event: a timestep costs what its spikes cost.

   A network is tables, which nothing writes to; a run is a state, which lies in one block of memory that the caller gives. Nothing is
   allocated, and there is no static state: calls for one state come one after the other, those for others may run beside them.

       void *memory = ...                                   network_size(&network) bytes, aligned as malloc's
       NetworkState *run = network_begin(&network, &settings, memory, bytes);
       network_reset(run, key0, key1, image);               at rest
       network_show(run, pixels);                           again for another image, without a reset: as a streaming network
       for (t = 0; t < settings.timesteps; t++)
           if (network_step(run)) break;                    the stopping rule holds
       network_answer(run);

   Python reads structs and enums from this text: TYPE name, name; a folder of C has its own name in place of network.
   Words: V membrane potential, theta threshold, s spike, x pixel, p its prediction. A place is a pixel of a layer: the channels
   of a place lie side by side. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stddef.h>
#include <stdint.h>

#if defined(__FAST_MATH__) || (defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16)
#error "sums must be rounded one by one, as float32: build without -ffast-math, and with SSE2 on a PC of 32 bits"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this machine is big-endian: the tables are written for little-endian ones"
#endif

#ifdef __cplusplus
extern "C" {
#endif
#define NETWORK_API 7
#define NETWORK_MAGIC 0x204E4E53u /* "SNN " */

#ifdef NETWORK_INT8
typedef int8_t network_weight_t;     /* weights are whole numbers, with one scale for each linear layer */
typedef int32_t network_potential_t; /* and so are membrane potentials: no sum is ever rounded */
#else
typedef float network_weight_t, network_potential_t;
#endif
#ifdef NETWORK_SMALL         /* whole numbers, for a microcontroller: memory before time; one image after the other, see below */
typedef uint8_t network_pixel_t;
#else
typedef float network_pixel_t;
#endif

/* kind and link of a node; reset; encoding, read-out and rule of settings; numbers of a row or column; constants of a node */
enum { NETWORK_NEURONS, NETWORK_OUTPUT, NETWORK_DECODED, NETWORK_RELAY, NETWORK_POOL, NETWORK_COUNTING_POOL, NETWORK_MAP,
       NETWORK_INTEGRATOR, NETWORK_ADDING };
enum { NETWORK_SAME, NETWORK_PLACED };
enum { NETWORK_RESET_NOW, NETWORK_RESET_NEXT_STEP, NETWORK_RESET_NEVER };
enum { NETWORK_POISSON, NETWORK_DIRECT };
enum { NETWORK_SPIKE_COUNT, NETWORK_SPIKE_COUNT_RESCALED, NETWORK_MEMBRANE, NETWORK_MEMBRANE_LINEAR, NETWORK_MEMBRANE_RESCALED };
enum { NETWORK_NEVER, NETWORK_CONFIDENCE, NETWORK_ENTROPY, NETWORK_ALL_PREDICTED, NETWORK_BOTH };
enum { NETWORK_SET, NETWORK_CORNER, NETWORK_SKIPPED, NETWORK_PLACES };
enum { NETWORK_THRESHOLD, NETWORK_LEAK, NETWORK_START, NETWORK_FLOOR, NETWORK_CEILING, NETWORK_CONSTANTS };

/* A node, and the link that leads to it from its source. Node 0 is the input.

   kind: NEURONS spike; OUTPUT adds up the logits; DECODED is the decoder's output of a step; a RELAY passes on the sums that
   reach it, and delays them by a timestep if it runs before its source (an edge back); a POOL is a 2 x 2 maximum pool of spikes, a
   COUNTING_POOL one of spike counts; a MAP counts by neuron the steps in which something reached it; an INTEGRATOR sends V itself at
   every step; ADDING is another link, to the node `into`, of the same shape.
   link: SAME: what (y, x) sends reaches (y / b, x / b), b = 2^halvings, times one weight. PLACED: it adds a window of `side` rows of
   weights, target channels within columns, zeros at the end of a row up to a multiple of 4. `places` has SET, CORNER and SKIPPED for each row
   of the source, then for each column: the sum of its two SETs says which set of weights a place has, -1 none; the window's corner; how
   many of its first rows, or columns, have no weights. Weights: (set, source channel, row, its weights). */
typedef struct {
    int32_t kind;
    int32_t link;
    int32_t source;       /* a node */
    int32_t height;       /* rows of places */
    int32_t width;        /* places of a row */
    int32_t channels;     /* neurons of a place */
    int32_t halvings;     /* SAME */
    int32_t side;         /* PLACED: of a window, in places */
    int32_t row_size;     /* PLACED: weights of a row of a window */
    int32_t group;        /* PLACED: so many channels of the source have weights that stay in the cache together */
    int32_t valued;       /* events have values, the potentials; 0: each is 1 */
    int32_t depth;        /* phased: the phase in which the node fires, from 0 on; turn() counts from there */
    int32_t first_weight; /* where weights begin */
    int32_t first_bias;   /* where biases begin in `constants`, of each channel, or, with first_own, neuron; 0: none */
    int32_t into;         /* the node to whose V the link adds: this one; of an ADDING another */
    int32_t first_place;  /* PLACED: where its numbers begin in `places` */
    int32_t first_reset;  /* where the value lies in `constants` that V gets where a neuron has spiked; 0: theta is subtracted */
    int32_t resets;       /* RESET_NOW: with the spike, of a delayed update, too; RESET_NEXT_STEP: after what arrives then; RESET_NEVER */
    int32_t first_own;    /* where each neuron's theta, leak and reset begin in `constants`; 0: they share those of the node */
    int32_t narrow;       /* no potential leaves 16 bits in the timesteps of training: NETWORK_SMALL keeps 16, and saturates beyond */
    int32_t unbounded;    /* for so many timesteps after a reset no potential reaches the floor, or the ceiling */
} NetworkNode;

/* The tables. The first `layers` nodes are the input and the spiking layers; order: the `forward` nodes in their order, then the
   `feedback` ones, those of the decoder (no recurrence: an edge back is a link like others); decoded: -1 where there is none. colour:
   pixels lie in -1 to 1, else 0 to 1. windows: of weights added at once, at most; counting: events are counted by neuron. */
typedef struct {
    int32_t layers, nodes, forward, feedback, output, decoded, colour, windows, counting;
    const NetworkNode *node;
    const int32_t *order, *places;
    const network_potential_t *constants; /* by node: threshold, leak (int8: times 2^15), start, floor, ceiling; then biases */
    const network_weight_t *weights;
    const char *names;            /* of the layers, each ending in 0 */
} NetworkTables;

/* What may change while a network runs: see network_set. epsilon: pixels predicted within it are blocked; dynamic: they may open
   again; latch: their prediction is held; residual: x - p is sent in place of x; per_pixel: the channels of a pixel are judged as
   one; surprise: gain of the reset on change. readout_slew: 0 for no limit. feedback 0: decoder and gate are off.
   immediate: V is charged before it is compared with theta, else after (delayed). phase_steps: of phased networks: steps of
   each phase, else 0. timesteps: for which the network was trained.

   Ranges: dynamic, latch, feedback, immediate, residual and per_pixel are 0 or 1; rule, encoding and readout one of their enum;
   timesteps from 1 and phase_steps from 0 on. epsilon, readout_slew and surprise are not below 0, readout_leak is 0 to 1, scales are
   above 0. No float is NaN; epsilon, surprise and the bounds may be infinite. */
typedef struct {
    float epsilon, open_bound, gap_bound, entropy_bound, readout_leak, readout_slew, surprise;
    float decoded_scale, logits_scale; /* what a whole number of these is worth; 1 in float32 */
    int32_t rule, dynamic, latch, feedback, immediate, encoding, readout, residual, per_pixel, timesteps, phase_steps;
} NetworkSettings;

/* A network as one block of bytes, as a file or flash has it: this head, then nodes, order, places and constants; weights, from a
   multiple of 64 bytes on, with 64 of 0 behind those that are used; names. All is little-endian, and is used where it lies, from a
   multiple of 4 bytes on. */
typedef struct {
    uint32_t magic, version, weight_bytes;     /* NETWORK_MAGIC, NETWORK_API; 4 of float32, 1 of int8 */
    int32_t layers, nodes, forward, feedback, output, decoded, colour, windows, counting; /* as in NetworkTables */
    int32_t places, constants, weights, names; /* how many numbers; of names bytes */
    NetworkSettings settings;
} NetworkBlock;

/* What changes at a node. NETWORK_SMALL: v and spikes are narrower, see v_at() and word_at() in small.h. */
typedef struct {
    const NetworkNode *node;
    const network_potential_t *constants; /* those of this node, from its threshold on */
    network_potential_t *v;    /* membrane potentials; of a relay the sums to pass on */
    uint32_t *spikes;  /* a bit for each neuron that sent something in this step, 32 channels of a place to a word */
    uint32_t *sent;    /* a bit for each place that did so; each row begins with a word */
    uint32_t *candidates; /* likewise, each place that something has reached, where V may be above theta; 0 where nobody asks */
    uint32_t *decayed; /* by place: steps whose leak V has had; 0 where nothing leaks */
    uint32_t *passed;  /* before and behind a counting pool: spikes of each neuron so far; else 0 */
    uint32_t *counted; /* counting: how often each neuron sent 1 or -1, then how often another value; else 0 */
    uint32_t count;    /* events of this step */
    uint32_t worth;    /* of a node whose events have values: 0: each is 1 in this step; 1: 1 or -1; 2: any */
    uint32_t has_candidates; /* whether there may be some; of the decoder's output, which lists none: V may be other than 0 */
    int32_t words, row_words; /* words of a place's spikes, and of a row of places */
    int32_t narrow, bytes; /* NETWORK_SMALL: v has 16 bits; bytes of a word of spikes */
} NetworkPart;

typedef struct {
    const NetworkTables *network;
    NetworkSettings settings;
    NetworkPart *part;                  /* by node */
    size_t *begins;              /* of events that reach one window: where the weights of each begin, and its value */
    network_potential_t *values;
    network_pixel_t *image;              /* x, on its scale; NETWORK_SMALL: as its byte */
    float *readout_sum;          /* R */
    float *prediction;           /* p on the image's scale, as the gate compares it; NETWORK_SMALL: 0, see network_prediction() */
    float *logits;               /* O, the places of a channel side by side */
    uint8_t *is_open;            /* whether the input neuron may spike */
    uint8_t *scratch;            /* while an image is shown: which pixels were open before; in list_sending: which may send */
    uint8_t *predicted;          /* whether |p - x| < epsilon */
    int32_t *sending;            /* blocks of 4 pixels of which one may spike */
    int32_t pixels, classes, blocks;
    uint32_t key[2], number, epoch; /* of the input's random numbers */
    uint32_t steps;              /* taken since the reset */
    const float *uniforms;       /* this step's random numbers, given; 0: drawn */
    const int32_t *input_events; /* what arrives in the next step, given: numbers of input neurons; 0: pixels are encoded */
    const float *input_values;   /* of these events; 0: each is 1 */
    int32_t input_count;         /* how many they are */
    int32_t begun;               /* an image has been shown since the reset */
    int32_t look_again;          /* all pixels are to be judged in the next step, those that it has not moved, too */
    int32_t subtracts_prediction; /* residual: what is predicted is taken away from what is sent */
    int32_t unproven;            /* the state, or what arrives, is given: Node.unbounded says nothing */
    int32_t changed;             /* a pixel has opened or closed, so others may send */
    int32_t active, open_active, open; /* pixels that are not 0, those of them that are open, open ones */
} NetworkState;

/* The network of a block, which must stay as it is meanwhile, and the settings with which it was written. Returns 0; or, where a state of
   it would read or write beyond its memory, or its settings are out of their ranges, in a few words why, and fills in nothing. */
const char *network_open(const void *block, size_t bytes, NetworkTables *network, NetworkSettings *settings);

/* Bytes of a state, 0 where no memory can be so large; the state, with these settings and not yet reset, or 0: memory is 0 or too few
   bytes, settings that the network does not take, or a compiler that fuses products with sums (clang's -ffp-contract=fast). */
size_t network_size(const NetworkTables *network);
NetworkState *network_begin(const NetworkTables *network, const NetworkSettings *settings, void *memory, size_t bytes);

/* Bring the network to rest, at step 0, with all pixels open. key0, key1: of the input's random numbers; image: the number of the
   image in its set, of which they also follow. */
void network_reset(NetworkState *run, uint32_t key0, uint32_t key1, uint32_t image);

/* Show an image: height x width x channels bytes, row by row, the channels of a pixel side by side. The first after a reset begins a
   run; a later one takes the place of the one before: pixels that no longer fit their prediction open again (dynamic), and the
   network forgets as much as that surprises it (reset on change). Returns 1; or 0 where the network cannot go on with a later image:
   then it still sees the one before. */
int network_show(NetworkState *run, const uint8_t *pixels);

/* 1 where another image may take the place of the one before; 0 of a network whose update is phased, or whose maximum pools count:
   it answers one image after the other, with a reset in between. */
int network_streams(const NetworkState *run);

/* What arrives in the next timestep, and in no later one: numbers of input neurons, in the order of a layer's, the same one as often as
   it has events. It takes the place of an image, and is not copied. Returns 0, and does nothing, where the input takes no events, or
   has no neuron of such a number. */
int network_arrive(NetworkState *run, const int32_t *events, int32_t count);

/* Take one timestep. Returns 1 where the stopping rule holds after it (early exit), else 0. */
int network_step(NetworkState *run);

/* The class with the largest logit; the margin of the two largest. */
int network_answer(const NetworkState *run);
float network_margin(const NetworkState *run);

/* A pixel and its prediction, on the image's scale. */
float network_pixel(const NetworkState *run, int pixel);
float network_prediction(const NetworkState *run, int pixel);

/* Layers, network->layers of them: 0 is the input, then the spiking layers of encoder, decoder and classifier. Neurons: row by row,
   the channels of a place side by side. spikes, spiked: of the latest step; potential: after it. */
const char *network_layer_name(const NetworkState *run, int layer);
int network_layer_size(const NetworkState *run, int layer);
uint32_t network_spikes(const NetworkState *run, int layer);
int network_spiked(const NetworkState *run, int layer, int neuron);
network_potential_t network_potential(const NetworkState *run, int layer, int neuron);
network_potential_t network_threshold(const NetworkState *run, int layer);

/* Other settings from the next step on; all is looked at again. Returns 0, and changes nothing, where network_accepts does. */
int network_set(NetworkState *run, const NetworkSettings *settings);

/* 1 where a network takes these settings: each is in its range, see NetworkSettings, and the network has what they ask for: feedback a
   decoder, residual and direct an input that sends values, immediate links that run in this order. */
int network_accepts(const NetworkTables *network, const NetworkSettings *settings);

/* Bring all potentials up to date. */
void network_settle(NetworkState *run);

#ifdef __cplusplus
}
#endif
#endif
