/* A spiking network with predictive feedback, event by event: a step costs what its spikes cost.

   One network at a time; its state is static, nothing is allocated. A run is: network_reset, network_show, then network_step
   as often as wanted (NETWORK_TIMESTEPS of weights.h is what the network was trained for), then network_answer. To go on with
   another image, as a streaming network does, call network_show again without a reset, if network_streams says that it can. */
#ifndef NETWORK_H
#define NETWORK_H

#include "weights.h" /* sizes, written with the network; defines NETWORK_INT8 where weights are whole numbers */

#include <stdint.h>

#ifdef NETWORK_INT8
typedef int8_t weight_t;     /* weights are whole numbers, with one scale for each layer */
typedef int32_t potential_t; /* and so are membrane potentials: no sum is ever rounded */
#else
typedef float weight_t;
typedef float potential_t;
#endif

enum { RULE_NEVER, RULE_CONFIDENCE, RULE_ENTROPY, RULE_ALL_PREDICTED, RULE_BOTH };

/* Bring the network to rest, at step 0, with all pixels open. key0, key1: of the input's random numbers; image: the number of the
   image in its set, of which they also follow. */
void network_reset(uint32_t key0, uint32_t key1, uint32_t image);

/* Show an image: height x width x channels bytes, row by row, the channels of a pixel side by side. The first after a reset
   begins a run; a later one takes the place of the one before: pixels that no longer fit their prediction open again (blocking
   dynamic), and the network forgets as much as that surprises it (reset on change). Returns 1; or 0 where the network cannot go on
   with a later image: then it still sees the one before. */
int network_show(const uint8_t *pixels);

/* 1 where another image may take the place of the one before; 0 of a network whose update is phased, or whose maximum pools
   count: it answers one image after the other, with a reset in between. */
int network_streams(void);

/* Take one timestep. Returns 1 where the stopping rule holds after it (early exit), else 0. */
int network_step(void);

/* The class with the largest logit; the margin of the two largest; all logits, NETWORK_CLASSES of them. */
int network_answer(void);
float network_margin(void);
const float *network_logits(void);

/* Layers, NETWORK_LAYERS of them: 0 is the input, then the spiking layers of encoder, decoder and classifier. */
const char *network_layer_name(int layer);
int network_layer_size(int layer);              /* neurons, row by row, the channels of a place side by side */
uint32_t network_spikes(int layer);             /* in the latest step */
int network_spiked(int layer, int neuron);      /* 1 where this neuron spiked in the latest step */
potential_t network_potential(int layer, int neuron); /* after the latest step; of the input 0 */
potential_t network_threshold(int layer);

/* By pixel and channel, as in the image. open: 1 where the input neuron may spike in the next step; prediction: on the image's
   scale (0 to 1 in grey, -1 to 1 in colour), after the latest step; seen: the image on that scale. */
const uint8_t *network_open(void);
const float *network_prediction(void);
const float *network_seen(void);

/* Settings, from the next step on; network_reset leaves them as they are. epsilon: pixels predicted within it are blocked; bound:
   of the stopping rule (confidence: margin; entropy: 0 to 1; all_predicted: share still open; both: margin); feedback 0: decoder
   and gate are off, the baseline; surprise: gain of the reset on change, 0 for none; dynamic: whether a blocked pixel may open
   again. */
void network_set_epsilon(float epsilon);
void network_set_rule(int rule);
void network_set_bound(float bound);
void network_set_feedback(int on);
void network_set_surprise(float gain);
void network_set_dynamic(int dynamic);

#endif
