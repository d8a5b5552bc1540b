/* Sizes of the largest network that a page may have. */
#ifndef WEIGHTS_H
#define WEIGHTS_H

#define NETWORK_PIXELS 784
#define NETWORK_CLASSES 10
#define NETWORK_LAYERS 24
#define NETWORK_NODES 64
#define NETWORK_POTENTIALS 400000
#define NETWORK_WORDS 40000
#define NETWORK_PLACES 40000
#define NETWORK_DECAYED 40000
#define NETWORK_SENT 200000
#define NETWORK_ROWS 4096

#endif
