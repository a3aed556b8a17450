# HTTP on the backend's own loop: what each end of a request says (rule 1, and the doubt of rule 5), limits, and that
# a request that hangs delays nothing else on the server.

use strict;
use warnings;
use McTest;
use McUnit;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = McUnit::node('main');
my $ports = McUnit::server();
my $url = "http://127.0.0.1:$ports->{http}";

# Requests one after another on one connection, as "METHOD /path" or "METHOD url".
sub serial
{
	my ($requests, %options) = @_;
	my @lines = map { s{ /}{ $url/}r } ref $requests ? @$requests : $requests;
	my $arguments = join '', map { ", $_ => $options{$_}" } sort keys %options;
	return $node->query("SELECT unit_serial('{" . join(',', @lines) . "}'$arguments)") =~ s/\n\z//r;
}

# status, what is true of it, bytes, Content-Type, X-Request-Id, Retry-After, error
my $good = 'application/json abc-1 -1 -';
is(serial('GET /ok'), "200 sent complete 2 $good", 'a good answer');
is(serial('POST /length', body => 3000000), "200 sent complete 7 $good", 'a body of 3 MB');
is(serial("$_ /length"), "200 sent complete 1 $good", "$_ without a body announces 0 bytes") for qw(POST PUT PATCH);
is(serial("$_ /length"), "200 sent complete 9 $good", "$_ without a body announces none") for qw(GET DELETE);
is(serial('GET /empty'), '204 sent complete 0 - - -1 -', 'no content');
is(serial('GET /later'), '429 sent complete 0 - - 7 -', 'Retry-After');
is(serial('GET /never'), '429 sent complete 0 - - 21600 -', 'a Retry-After that nobody can mean');
is(serial('GET /away'), '302 sent complete 0 - - -1 -', 'a redirect is not followed');
is(serial('GET /odd'), '200 sent complete 2 a?b - -1 -', 'what is no ASCII in a header');

# Nothing left: no effect
like(serial("GET $_->[0]", body => 10, timeout_ms => 300), qr/^0 0 - - -1 $_->[1]/, "not sent: $_->[2]")
  for (
	[ 'https://nowhere.invalid/', 'Could not resolve host', 'no such name' ],
	[ 'http://127.0.0.1:1/', 'Failed to connect', 'refused' ],
	[ "https://127.0.0.1:$ports->{http}/ok", '.*SSL', 'TLS to a plain port' ],
	[ "https://127.0.0.1:$ports->{tls}/", '(?:SSL connection timeout|Connection timed out)', 'TLS that never comes about' ],
	[ 'http://127.0.0.1.invalid/', 'Protocol "http"', 'http to another machine' ],
	[ 'ftp://127.0.0.1/', 'Protocol "ftp"', 'another protocol' ]);
like(serial("POST http://127.0.0.1:$ports->{upload}/", body => 30000000), qr/^0 0 - - -1 \S/, 'not sent: an upload that was cut');

# Sent, and no usable answer: doubt
like(serial("POST $_->[0]", body => 10, timeout_ms => 300), qr/^$_->[1]/, "doubt: $_->[2]")
  for (
	[ '/reset', '0 sent 0 - - -1 \S', 'reset' ],
	[ '/hang', '0 sent 0 - - -1 Operation timed out', 'no answer' ],
	[ '/cut', '200 sent 8 application/json abc-1 -1 (?:transfer closed|end of response) with', 'cut in the body' ],
	[ "http://127.0.0.1:$ports->{header}/", '200 sent 0 - - -1 the answer broke off', 'cut in the header' ],
	[ "http://127.0.0.1:$ports->{open}/", '200 sent 0 - - -1 the answer broke off', 'empty, without a length' ],
	[ "http://127.0.0.1:$ports->{noise}/", '0 sent 0 - - -1 Received HTTP/0.9', 'no HTTP' ]);

# curl would send these again by itself
for my $request ("POST http://127.0.0.1:$ports->{again}/", "GET http://127.0.0.1:$ports->{again}/")
{
	is(serial([$request, $request]), "200 sent complete 2 - - -1 -\n0 sent 0 - - -1 the connection was closed without an answer",
		"a connection that dies under a request: $request");
}
is($node->query("SELECT unit_serial('{GET $url/ok}', 10)"), "200 sent complete 2 $good\n", 'GET with a body');

# Limits, after decompression
is(serial('GET /gzip', max_response => 1000000), "200 sent complete 1000000 $good", 'as large as allowed');
is(serial('GET /gzip', max_response => 999999),
	'200 sent too_large 0 application/json abc-1 -1 the reply is larger than allowed', 'a byte more');

# Many at once
is($node->query("SELECT unit_parallel(array_fill('GET $url/ok'::text, '{50}'))"), ("200 sent complete 2 $good\n" x 50), '50 at once');
is($node->query("SELECT unit_latch('GET $url/later')"), 't', 'the latch ends a wait and is not lost');

# Errors of the caller while requests are open leave nothing behind
my $session = $node->session;
my $raise = "DO \$\$ BEGIN FOR i IN 1..100 LOOP BEGIN
	PERFORM unit_parallel('{GET $url/hang,GET $url/ok,GET https://127.0.0.1:$ports->{tls}/}', raise_after => 1);
	EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END \$\$";
$session->query($raise);
my $before = $session->query('SELECT unit_files()');
$session->query("SELECT unit_parallel('{GET $url/hang,GET $url/ok}', raise_after => 1);\n") for 1 .. 100;
$session->query($raise);
is($session->query('SELECT unit_files()'), $before, 'no file is left open after 200 errors');
$session->quit;

# A request that hangs delays nobody
sub hang
{
	my $hanging = $node->session;
	McTest::begin($hanging, "SELECT unit_serial('{POST $_[0]}', 10);");
	$node->wait_until("SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT unit_serial%' AND wait_event = 'Extension'");
	return ($hanging, $node->query("SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT unit_serial%' AND wait_event = 'Extension'"));
}

# In less than 2 s, where the request would take 60
sub soon
{
	my ($name, $function) = @_;
	my $start = Time::HiRes::time();
	$function->();
	cmp_ok(Time::HiRes::time() - $start, '<', 2, $name);
}

for my $where ("$url/hang", "https://127.0.0.1:$ports->{tls}/")
{
	my ($hanging, $pid) = hang($where);
	soon("DROP DATABASE: $where", sub { $node->query('CREATE DATABASE other'); $node->query('DROP DATABASE other') });
	soon("cancel: $where", sub { $node->query("SELECT pg_cancel_backend($pid)"); $hanging->query('') });
	like($hanging->{stderr}, qr/canceling statement due to user request/, 'it was cancelled');
	$hanging->quit;

	($hanging, $pid) = hang($where);
	soon("terminate: $where", sub { is($node->query("SELECT pg_terminate_backend($pid, 2000)"), 't', 'it ended') });

	($hanging, $pid) = hang($where);
	soon("fast shutdown: $where", sub { $node->stop('fast') });
	$node->start;
}

done_testing();
