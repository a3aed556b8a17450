/*-------------------------------------------------------------------------
 *
 * http.c
 *	  Many HTTP requests at once on the backend's own wait loop.
 *
 * curl's multi interface is driven by curl_multi_socket_action: curl tells by
 * two callbacks which sockets and which timer it waits for, we wait for them in
 * a WaitEventSet together with the latch and the death of the postmaster.
 *
 * Callbacks only record. They run inside of curl, so they never raise, palloc or
 * log: an error that jumped out of curl would leave it in the middle of something.
 *
 * Ownership: what curl and malloc hold belongs to the McHttp and is freed by a
 * reset callback of its memory context, which runs also when an error resets that
 * context. It reads nothing of the caller's: the caller's memory may be gone.
 *
 * Signals: curl resolves names in a thread. All signals are blocked where curl may
 * start it, it inherits that, and so no handler of ours ever runs in it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "transfer.h"

/* Connections without a request that are kept open; Mailchimp allows 10 requests at once. */
#define IDLE_CONNECTIONS 10

/* Sockets handled per turn; what is left over is ready in the next one too. */
#define EVENTS_PER_TURN 16

typedef struct McSocket
{
	curl_socket_t fd;
	int interest; /* CURL_POLL_IN, _OUT or _INOUT */
} McSocket;

struct McHttp
{
	MemoryContext context;
	MemoryContextCallback on_reset;
	CURLM *multi;
	dlist_head running;	 /* McTransfer */
	dlist_head finished; /* McTransfer, not returned yet, without their easy handle */
	int count;			 /* of both */

	/* what curl waits for, as told by its callbacks */
	McSocket *sockets; /* malloc */
	int nsockets;
	int max_sockets;
	bool sockets_changed;
	int64 timer; /* ms on our clock, -1: none */

	WaitEventSet *set; /* of the sockets as they are unless sockets_changed */
};

/* ---------- time and signals ---------- */

static int64
now_ms(void)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/* Faults of the code itself stay deliverable: blocked, they would be undefined. */
static void
block_signals(sigset_t *saved)
{
	sigset_t all;

	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGABRT);
	sigdelset(&all, SIGTRAP);
	sigprocmask(SIG_SETMASK, &all, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	sigprocmask(SIG_SETMASK, saved, NULL);
}

/* ---------- callbacks of curl: record, never raise ---------- */

static McSocket *
find_socket(McHttp *http, curl_socket_t fd)
{
	for (int i = 0; i < http->nsockets; i++)
	{
		if (http->sockets[i].fd == fd)
			return &http->sockets[i];
	}
	return NULL;
}

static McSocket *
add_socket(McHttp *http, curl_socket_t fd)
{
	if (http->nsockets == http->max_sockets)
	{
		int max = http->max_sockets == 0 ? 16 : 2 * http->max_sockets;
		McSocket *sockets = realloc(http->sockets, max * sizeof(McSocket));

		if (sockets == NULL)
			return NULL;
		http->sockets = sockets;
		http->max_sockets = max;
	}
	http->sockets[http->nsockets].fd = fd;
	return &http->sockets[http->nsockets++];
}

/*
 * The set counts as changed even if it looks the same afterwards: the same
 * number may be another socket, which the kernel's set does not have.
 */
static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	McHttp *http = arg;
	McSocket *known = find_socket(http, fd);

	http->sockets_changed = true;
	if (what == CURL_POLL_REMOVE || what == CURL_POLL_NONE)
	{
		if (known != NULL)
			*known = http->sockets[--http->nsockets];
		return 0;
	}
	if (known == NULL)
		known = add_socket(http, fd);
	if (known == NULL)
		return -1;
	known->interest = what;
	return 0;
}

static int
on_timer(CURLM *multi, long timeout_ms, void *arg)
{
	McHttp *http = arg;

	http->timer = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
	return 0;
}

/* ---------- making and freeing ---------- */

static void
raise_out_of_memory(void)
{
	ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
					errdetail("Failed while preparing an HTTP request.")));
}

static void
init_curl(void)
{
	static bool done = false;

	if (done)
		return;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION), errmsg("could not start libcurl")));
	if ((curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_ASYNCHDNS) == 0)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("this libcurl cannot look up names without blocking the server"),
						errhint("Install a libcurl that was built with a threaded or c-ares "
								"resolver.")));
	done = true;
}

/* Closes the connection of a request under way. */
static void
drop_transfer(McHttp *http, McTransfer *transfer)
{
	if (transfer->easy != NULL)
		curl_multi_remove_handle(http->multi, transfer->easy);
	mc_transfer_free(transfer);
}

static void
free_http(void *arg)
{
	McHttp *http = arg;
	dlist_iter iter;

	if (http->set != NULL)
		FreeWaitEventSet(http->set);
	dlist_foreach(iter, &http->running)
	{
		drop_transfer(http, dlist_container(McTransfer, node, iter.cur));
	}
	if (http->multi != NULL)
		curl_multi_cleanup(http->multi);
	free(http->sockets);
}

McHttp *
mc_http_create(MemoryContext context)
{
	MemoryContext own = AllocSetContextCreate(context, "mailchimp_sync http", ALLOCSET_SMALL_SIZES);
	McHttp *http = MemoryContextAllocZero(own, sizeof(McHttp));

	init_curl();
	http->context = own;
	dlist_init(&http->running);
	dlist_init(&http->finished);
	http->timer = -1;
	http->sockets_changed = true;
	http->on_reset.func = free_http;
	http->on_reset.arg = http;
	MemoryContextRegisterResetCallback(own, &http->on_reset);

	http->multi = curl_multi_init();
	if (http->multi == NULL ||
		curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
		curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http) != CURLM_OK ||
		curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer) != CURLM_OK ||
		curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http) != CURLM_OK ||
		curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long) IDLE_CONNECTIONS) != CURLM_OK)
		raise_out_of_memory();
	return http;
}

/* ---------- starting ---------- */

static void
check_multi(CURLMcode code)
{
	if (code == CURLM_OUT_OF_MEMORY || code == CURLM_ABORTED_BY_CALLBACK)
		raise_out_of_memory();
	if (code != CURLM_OK)
		elog(ERROR, "libcurl failed: %s", curl_multi_strerror(code));
}

/* Queues it for mc_http_wait. */
static void
finish(McHttp *http, McTransfer *transfer, CURLcode code)
{
	mc_transfer_finish(transfer, code);
	drop_transfer(http, transfer);
	dlist_delete(&transfer->node);
	dlist_push_tail(&http->finished, &transfer->node);
}

void
mc_http_start(McHttp *http, McHttpRequest *request)
{
	McTransfer *transfer = MemoryContextAllocZero(http->context, sizeof(McTransfer));
	CURLcode code;
	CURLMcode multi_code;
	sigset_t saved;

	Assert(request->context != NULL);
	dlist_push_tail(&http->running, &transfer->node);
	http->count++;
	code = mc_transfer_prepare(transfer, request);
	if (code == CURLE_OUT_OF_MEMORY)
		raise_out_of_memory();
	if (code != CURLE_OK)
	{
		finish(http, transfer, code);
		return;
	}
	block_signals(&saved);
	multi_code = curl_multi_add_handle(http->multi, transfer->easy);
	restore_signals(&saved);
	check_multi(multi_code);
}

static void
forget_transfer(McHttp *http, McTransfer *transfer)
{
	dlist_delete(&transfer->node);
	http->count--;
	pfree(transfer);
}

int
mc_http_running(McHttp *http)
{
	return http->count;
}

/* ---------- waiting ---------- */

static void
build_wait_set(McHttp *http)
{
	if (http->set != NULL)
	{
		FreeWaitEventSet(http->set);
		http->set = NULL;
	}
	http->set = CreateWaitEventSet(NULL, http->nsockets + 2);
	AddWaitEventToSet(http->set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	if (IsUnderPostmaster)
		AddWaitEventToSet(http->set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < http->nsockets; i++)
	{
		uint32 events = 0;

		if (http->sockets[i].interest & CURL_POLL_IN)
			events |= WL_SOCKET_READABLE;
		if (http->sockets[i].interest & CURL_POLL_OUT)
			events |= WL_SOCKET_WRITEABLE;
		AddWaitEventToSet(http->set, events, http->sockets[i].fd, NULL, NULL);
	}
	http->sockets_changed = false;
}

/* Lets curl do what it can without waiting, and takes what is finished then. */
static void
drive(McHttp *http, curl_socket_t fd, int ready)
{
	sigset_t saved;
	CURLMcode code;
	CURLMsg *message;
	int left;

	block_signals(&saved);
	code = curl_multi_socket_action(http->multi, fd, ready, &left);
	restore_signals(&saved);
	check_multi(code);

	while ((message = curl_multi_info_read(http->multi, &left)) != NULL)
	{
		char *transfer = NULL;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
		finish(http, (McTransfer *) transfer, message->data.result);
	}
}

static int
wait_for_events(McHttp *http, long timeout_ms, WaitEvent *events, bool *latch)
{
	int n = WaitEventSetWait(http->set, timeout_ms, events, EVENTS_PER_TURN, PG_WAIT_EXTENSION);

	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			*latch = true;
		}
	}
	return n;
}

/*
 * One turn: waits up to timeout_ms (-1: for ever). True if the latch was set.
 * Up to 16, a set latch hides sockets that are ready too; one that is set all the time,
 * by every commit, would keep them waiting for ever, so they are looked at once more.
 */
static bool
wait_once(McHttp *http, long timeout_ms)
{
	WaitEvent events[EVENTS_PER_TURN];
	bool latch = false;
	int n;

	if (http->sockets_changed)
		build_wait_set(http);
	n = wait_for_events(http, timeout_ms, events, &latch);
	if (latch)
		n = wait_for_events(http, 0, events, &latch);
	CHECK_FOR_INTERRUPTS();
	for (int i = 0; i < n; i++)
	{
		int ready = ((events[i].events & WL_SOCKET_READABLE) ? CURL_CSELECT_IN : 0) |
					((events[i].events & WL_SOCKET_WRITEABLE) ? CURL_CSELECT_OUT : 0);

		if (ready != 0)
			drive(http, events[i].fd, ready);
	}
	return latch;
}

static McHttpRequest *
next_finished(McHttp *http)
{
	McTransfer *transfer;
	McHttpRequest *request;

	if (dlist_is_empty(&http->finished))
		return NULL;
	transfer = dlist_container(McTransfer, node, dlist_head_node(&http->finished));
	request = transfer->request;
	forget_transfer(http, transfer);
	return request;
}

/* How long to wait until the nearer of two instants, -1 being never. */
static long
wait_until(int64 a, int64 b)
{
	int64 nearer = a < 0 ? b : (b < 0 ? a : Min(a, b));

	return nearer < 0 ? -1 : (long) Min(Max(nearer - now_ms(), 0), PG_INT32_MAX);
}

/*
 * A request that is returned although the latch was set too leaves the latch
 * set: the caller still learns of it.
 */
McHttpRequest *
mc_http_wait(McHttp *http, long timeout_ms)
{
	int64 deadline = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
	bool latch = false;

	for (;;)
	{
		McHttpRequest *request;

		CHECK_FOR_INTERRUPTS();
		if (http->timer >= 0 && http->timer <= now_ms())
		{
			http->timer = -1;
			drive(http, CURL_SOCKET_TIMEOUT, 0);
		}
		request = next_finished(http);
		if (request != NULL)
		{
			if (latch)
				SetLatch(MyLatch);
			return request;
		}
		if (latch || (deadline >= 0 && deadline <= now_ms()))
			return NULL;
		latch = wait_once(http, wait_until(http->timer, deadline));
	}
}

/*
 * The answer lives in the current memory context. An error is caught on its way
 * only to close the connection now: the context above may live for long.
 */
void
mc_http_perform(McHttpRequest *request)
{
	McHttp *http = mc_http_create(CurrentMemoryContext);

	request->context = CurrentMemoryContext;
	PG_TRY();
	{
		mc_http_start(http, request);
		while (mc_http_wait(http, -1) == NULL)
			;
	}
	PG_FINALLY();
	{
		MemoryContextDelete(http->context);
	}
	PG_END_TRY();
}
