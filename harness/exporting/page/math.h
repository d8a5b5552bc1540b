/* WebAssembly has no libm. network.c wants exp and log for the rule entropy alone, which a page does not ask for. */
#define exp(x) (x)
#define log(x) (x)
