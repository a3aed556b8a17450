/*-------------------------------------------------------------------------
 *
 * http.h
 *	  Many HTTP requests at once on the backend's own wait loop.
 *
 * The caller makes a McHttp, starts requests and waits for finished ones. It
 * knows nothing of SQL: it needs no transaction and touches no table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_HTTP_H
#define MC_HTTP_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef struct McHttp McHttp;

typedef struct McHttpRequest
{
	/* set by the caller; must stay until the request is finished or cancelled */
	const char *method;
	const char *url;
	const char *api_key; /* sent as Bearer; NULL sends none */
	const char *body;	 /* UTF-8 JSON; NULL sends none (Content-Length: 0 where needed) */
	size_t body_len;
	long connect_timeout_ms;
	long timeout_ms;
	size_t max_response;   /* bytes, after decompression */
	MemoryContext context; /* where the answer lives; it must outlive the request */
	void *owner;		   /* the caller's own */

	/* set when finished */
	bool finished;
	int status;			/* HTTP status, 0: no complete status line */
	bool sent;			/* all bytes of the request may have left */
	bool complete;		/* the whole answer arrived */
	bool too_large;		/* given up at max_response; the reply is empty then */
	char *content_type; /* or NULL */
	char *request_id;	/* X-Request-Id, or NULL */
	int retry_after_s;	/* -1: none given; 6 hours at most */
	char *reply;		/* zero-terminated, reply_len bytes before the zero */
	size_t reply_len;
	char *error; /* curl's words where not complete, else NULL; no key in it */
	double seconds;
} McHttpRequest;

/*
 * Everything of it is freed with the memory context, also when that is reset by
 * an error: curl's own memory and its sockets are behind a reset callback.
 */
extern McHttp *mc_http_create(MemoryContext context);

/* Raises only out of memory; anything else shows up as a finished request. */
extern void mc_http_start(McHttp *http, McHttpRequest *request);

/* How many were started and not yet returned by mc_http_wait. */
extern int mc_http_running(McHttp *http);

/*
 * Waits until a request is finished (returned, fields filled in), the latch is
 * set or timeout_ms (-1: none) is over (NULL). Resets the latch and checks for interrupts on
 * each turn, so it raises on a query cancel and ends on a terminate.
 */
extern McHttpRequest *mc_http_wait(McHttp *http, long timeout_ms);

/*
 * One request from start to end, for foreground calls; the answer lives in the current
 * memory context.
 */
extern void mc_http_perform(McHttpRequest *request);

#endif /* MC_HTTP_H */
