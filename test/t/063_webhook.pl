# Webhooks from end to end: Mailchimp is told whom to tell, tells it through nginx, fcgiwrap and psql as contrib/webhook has them,
# and what has changed is read at once. They come twice, in any order, too many, forged or not at all (N5, N12, R14).

use strict;
use warnings;
use JSON::PP ();
use McCrm;
use McTest;
use McWebhook;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $crm = McCrm->start('main', candidates => 12);
my ($sim, $node, $list) = @$crm{qw(sim node list)};
$node->role('hook', level => 'webhook');
my $web = McWebhook->start($node, role => 'hook');
my ($url, $true) = ($web->url, JSON::PP::true);
$crm->sync;
$crm->journal;

sub register { my ($audience, $to) = @_; return $node->query("SELECT mc_register_webhook('$audience', " . (defined $to ? "'$to'" : 'NULL') . ')', as => 'ann') }
sub at_mailchimp { return @{ $sim->get("/_sim/webhooks/$list")->{webhooks} } }
sub delivered { my ($count) = @_; return $sim->get('/_sim/deliveries', wait => $McTest::patience, count => $count, state => 'delivered')->{deliveries} }
sub hints { return $node->query('SELECT count(*) FROM mailchimp_sync.webhook_hint') }
# The requests that read, or poll, since the last look.
sub reads { return scalar grep { $_->{route} eq 'GET /lists/{list_id}/members' } $crm->journal }
sub run_reads { $crm->run; return reads() }

# ---- registering

my (undef, undef, $said) = $node->psql('postgres', "SELECT mc_register_webhook('people', '$url')", extra_params => [ '-U', 'ann', '-v', 'VERBOSITY=verbose' ]);
like($said, qr{NOTICE:  00000: Mailchimp tells \Q$url\E of changes in audience "people"\nDETAIL:  A ROLLBACK does not undo that\.}, 'it says that it writes');
my ($hook) = at_mailchimp();
like($hook->{url}, qr/^\Q$url\E\?secret=([0-9a-f]{32})$/, 'Mailchimp got a URL with a secret');
my ($secret) = $hook->{url} =~ /secret=(.*)/;
is(join(',', sort grep { $hook->{events}{$_} } keys %{ $hook->{events} }), 'campaign,cleaned,profile,subscribe,unsubscribe,upemail', 'for these events');
is(join(',', sort grep { $hook->{sources}{$_} } keys %{ $hook->{sources} }), 'admin,user', 'our own changes are no news');
is($crm->rita("SELECT webhook_url, webhook_received_at IS NULL FROM mc_audience"), "$url|t", 'where it is can be seen');
is($crm->rita("SELECT string_agg(concat_ws(' ', method, path, status), ', ' ORDER BY started_at) FROM mc_request WHERE work = 'webhook'"),
	"GET /lists/$list/webhooks?fields=webhooks.id,webhooks.url 200, POST /lists/$list/webhooks 200", 'the requests are in the log');
$node->role('spy');
$node->query('GRANT pg_read_all_stats TO spy');
like($node->error('SELECT * FROM mailchimp_sync.webhook', as => $_), qr/42501/, "N12: no secret for $_") for 'ann', 'hook', 'spy';

# ---- what Mailchimp tells is known at once, through nginx, fcgiwrap and psql

$crm->act('c1', 'unsubscribe');
delivered(1);
is(run_reads(), 2, 'an unsubscription: one read (members, and archived ones)');
is($crm->state(1), 'opted_out|is in the opt-out group', 'who left at Mailchimp has opted out');
is($crm->rita('SELECT webhook_received_at IS NOT NULL FROM mc_audience'), 't', 'that something came can be seen');
is(run_reads(), 0, 'and nothing is left to do');

# twice, in reverse order, all of them at once
$crm->later(60);
$sim->post('/_sim/config', { webhook_times => 2, webhook_hold => $true });
$crm->act('c2', 'unsubscribe');
$crm->act('c2', 'resubscribe');
$crm->act("c$_", 'clean') for 3 .. 5;
$crm->act('c6', 'edit', merge_fields => { FNAME => 'X' });
McTest::poll('deliveries', sub { @{ $sim->get('/_sim/deliveries', state => 'held')->{deliveries} } == 13 });
is($sim->post('/_sim/deliveries/release', { reverse => $true })->{released}, 12, 'six things, each told twice, the last first');
is(hints(), 1, 'leave one hint');
is(run_reads(), 2, 'and cost one read');
is($crm->state(2), 'in_sync|', 'N5: what counts is what Mailchimp shows, not what came last');
is(join(' ', map { $crm->state($_) } 3 .. 5), join(' ', ('inactive|cleaned at Mailchimp') x 3), 'all are known');
$sim->post('/_sim/config', { webhook_times => 1, webhook_hold => JSON::PP::false });

# a flood: never more than one read in five seconds
$sim->post('/_sim/deliveries/repeat', { n => 1 }) for 1 .. 20;
delivered(33);
is(hints(), 1, 'one hint again');
my ($last) = sort { $b->{ended} <=> $a->{ended} } grep { $_->{route} eq 'GET /lists/{list_id}/members' } $sim->journal;
my @next;
McTest::poll('a read', sub { $crm->run; push @next, grep { $_->{route} eq 'GET /lists/{list_id}/members' } $crm->journal; return scalar @next });
is(scalar(@next), 2, 'and one read');
cmp_ok($next[0]{started} - $last->{ended}, '>=', 4990, 'no sooner than five seconds after the one before');
$crm->later(60);

# ---- forged, old, too large: refused, and nothing stored

sub post
{
	my ($query, $body, %headers) = @_;
	return $sim->{http}->post("$url$query", { content => $body, headers => { 'content-type' => 'application/x-www-form-urlencoded', %headers } })->{status};
}
my $log = $node->log_end;
my $body = "type=unsubscribe&data[list_id]=$list&data[email]=c7\@crm.test";
is(post("?secret=$secret", $body), 403, 'no signature');
is(post("?secret=$secret", $body, 'X-Mailchimp-Signature' => 't=' . time . ',v1=' . '0' x 64), 403, 'a wrong one');
is(post('', $body), 403, 'no secret');
is(post("?secret=$secret", 'x' x 300_000), 413, 'too large');
is($sim->{http}->get($url)->{status}, 200, 'whoever asks is told that somebody is there');
is(hints(), 0, 'nothing is stored');
is(run_reads(), 0, 'and nothing asked');
unlike(slurp_file($node->logfile, $log), qr/\Q$secret\E|crm\.test|mc_receive_webhook\('/, 'N12: no secret, address or body is in the log');
like(slurp_file($node->logfile, $log), qr/ERROR:  the webhook is refused/, 'but that it was refused');
unlike(slurp_file("$web->{folder}/error.log"), qr/PHP|primary script unknown/i, 'nginx had no trouble of its own');

# our clock is five minutes ahead of Mailchimp's: what it signs is too old
$node->clock_ahead($crm->{later} + 400);
$crm->act('c8', 'unsubscribe');
my ($late) = grep { $_->{state} eq 'waiting' && @{ $_->{attempts} } == 1 } @{ McTest::poll('a refusal', sub {
	my $all = $sim->get('/_sim/deliveries')->{deliveries};
	return $all if $all->[-1]{state} eq 'waiting' && @{ $all->[-1]{attempts} };
	return;
}) };
is($late->{attempts}[0]{status}, 403, 'signed more than five minutes before');
is(hints(), 0, 'nothing is stored');
$node->clock_ahead($crm->{later});
$crm->later(60);
delivered(34);
is(run_reads(), 2, 'Mailchimp tells it again');
is($crm->state(8), 'opted_out|is in the opt-out group', 'and it is known');

# whoever has both secrets causes a read, and no more
$crm->later(60);
$node->query(qq{SELECT mc_receive_webhook(b, format('t=%s,v1=%s', t, encode(sha256(k.o || sha256(k.i || convert_to(t || '.' || b, 'UTF8'))), 'hex')), '$secret')
	FROM (SELECT '$body' AS b, extract(epoch FROM now())::bigint + $crm->{later} AS t,
		(SELECT string_agg(set_byte('\\x00', 0, get_byte(s, i) # 92), '' ORDER BY i) FROM generate_series(0, 63) i) AS o,
		(SELECT string_agg(set_byte('\\x00', 0, get_byte(s, i) # 54), '' ORDER BY i) FROM generate_series(0, 63) i) AS i
		FROM (SELECT convert_to('$hook->{secret}', 'UTF8') || decode(repeat('00', 64 - length('$hook->{secret}')), 'hex') AS s) AS s) AS k}, as => 'hook');
is(run_reads(), 2, 'a forged one that is signed rightly: one read');
is($crm->state(7), 'in_sync|', 'N2: nobody is unsubscribed by what it says');

# ---- paused, it is remembered

$crm->later(60);
$crm->ann("SELECT mc_pause('main', 'people')");
$crm->act('c9', 'unsubscribe');
delivered(35);
is(run_reads(), 0, 'paused: nothing is asked');
$crm->ann("SELECT mc_resume('main', 'people')");
is(run_reads(), 2, 'afterwards it is');
is($crm->state(9), 'opted_out|is in the opt-out group', 'and known');

# ---- a campaign that Mailchimp has sent

my $campaign = $crm->max("SELECT mc_create_campaign('News', 'people', 'Newsletter', 'Demo', 'news\@example.org')");
$crm->max("SELECT mc_add_recipients($campaign, 'candidate', '{6,7}'); SELECT mc_prepare_campaign($campaign)");
$crm->run;
my $id = $crm->rita("SELECT mailchimp_id FROM mc_campaign WHERE campaign_id = $campaign");
$crm->later(120);
$sim->post('/_sim/act', { campaign => $id, action => 'send' });
$sim->get('/_sim/campaigns');
delivered(36);
my $holds = $node->session;
$holds->query("BEGIN; SELECT FROM mailchimp_sync.campaign WHERE campaign_id = $campaign FOR UPDATE");
$crm->run;
is(hints(), 1, 'a campaign that somebody holds is left for later');
$holds->quit;
$crm->later(60);
$crm->run;
is(hints(), 0, 'that is now');
is($crm->rita("SELECT status FROM mc_campaign WHERE campaign_id = $campaign"), 'sent', 'somebody sent it there, and it is known at once');

# ---- as PostgREST calls it

register('people', $web->postgrest_url);
my ($other) = at_mailchimp();
my $request = $web->postgrest(sub { $crm->act('c10', 'unsubscribe') });
delivered(37);
is("$request->{method} $request->{path}", 'POST /rpc/mc_webhook', 'nginx asks for the function, without the query');
is($request->{headers}{'content-type'}, 'text/plain', 'with what a function of one text takes');
is($request->{headers}{'x-webhook-secret'}, $other->{url} =~ s/.*secret=//r, 'and the secret in a header');
$crm->later(60);
my %headers = map { $_ => $request->{headers}{$_} } keys %{ $request->{headers} };
my $json = JSON::PP->new->canonical->encode(\%headers);
$node->query("BEGIN; SELECT set_config('request.headers', \$q\$$json\$q\$, true); SELECT mc_webhook(\$q\$$request->{body}\$q\$); COMMIT", as => 'hook');
is(run_reads(), 2, 'mc_webhook takes it');
is($crm->state(10), 'opted_out|is in the opt-out group', 'and it is known');

# ---- registering again replaces

is(scalar(at_mailchimp()), 1, 'the webhook before is gone at Mailchimp');
$crm->later(60);
is(post("?secret=$secret", $body, 'X-Mailchimp-Signature' => 't=1,v1=' . '0' x 64), 403, 'and its secret with it');
register('people', $url);
my ($third) = at_mailchimp();
isnt($third->{url}, $hook->{url}, 'each has a secret of its own');
$sim->fault(method => 'POST', path => 'webhooks$', fault => 'reset_after');
like($node->error("SELECT mc_register_webhook('people', '$url')", as => 'ann'), qr/08006/, 'an answer that is lost, with the secret in it');
is(scalar(at_mailchimp()), 2, 'leaves one at Mailchimp that nobody can use');
register('people', $url);
is(scalar(at_mailchimp()), 1, 'which goes when it is registered again');
$sim->post('/_sim/act', { list => $list, action => 'add_webhook', url => "$url?secret=0123456789abcdef", events => { subscribe => $true } });
$sim->post('/_sim/act', { list => $list, action => 'add_webhook', url => 'https://elsewhere.example.org/' });
register('people', "$url?secret=0123456789abcdef");
is(join(' ', sort map { $_->{url} } at_mailchimp()), "$url?secret=0123456789abcdef https://elsewhere.example.org/", 'the same URL, unsigned, is replaced; others are left alone');
$sim->fault(method => 'DELETE', path => 'webhooks/', times => 1, fault => { type => 'status', status => 403, json => $true });
like(($node->psql('postgres', "SELECT mc_register_webhook('people', '$url')", extra_params => [ '-U', 'ann' ]))[2], qr/WARNING:  the webhook before is still there/, 'one that cannot be removed is told of');
like($node->error("SELECT mc_register_webhook('people', 'http://127.0.0.1:1/')", as => 'ann'), qr/38000.*couldn't verify that the URL is working/s, 'N8: nobody is there, in Mailchimp\'s words');
like($node->error("SELECT mc_register_webhook('people', 'http://crm.test/')", as => 'ann'), qr/22023/, 'no https');
like($node->error("SELECT mc_register_webhook('peple', '$url')"), qr/42704.*people/s, 'no such audience');
like($node->error("SELECT mc_register_webhook('people', '$url')", as => 'max'), qr/42501/, 'R14: it takes an admin');
$crm->ann("SELECT mc_pause('main')");
like($node->error("SELECT mc_register_webhook('people', '$url')", as => 'ann'), qr/55000/, 'nor while the connection is paused');
$crm->ann("SELECT mc_resume('main')");

# ---- the worker: from a change at Mailchimp to the CRM

register('people', $url);
$crm->later(60);
$crm->ann('SELECT mc_start_worker()');
$node->worker;
$node->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight) AND NOT EXISTS (SELECT FROM mailchimp_sync.webhook_hint)');
my $begin = Time::HiRes::time();
$crm->act('c11', 'unsubscribe');
$node->wait_until("SELECT state = 'opted_out' FROM mc_contact_state WHERE contact_key = '11'", as => 'rita');
note(sprintf 'from a change at Mailchimp to the CRM: %.2f s', Time::HiRes::time() - $begin);
cmp_ok(Time::HiRes::time() - $begin, '<', 300, 'long before the next read is due');

$crm->ann(q{SELECT mc_set_inbound('people', 'candidate', '{"FNAME": "first_name"}');
	SELECT mc_alter_audience('people', '{"direction": "both", "conflict": "mailchimp_wins"}')});
$node->wait_until('SELECT a.walked_at IS NOT NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight) FROM mailchimp_sync.audience a');
$begin = Time::HiRes::time();
$crm->act('c7', 'edit', merge_fields => { FNAME => 'Seconds' });
$node->wait_until("SELECT first_name = 'Seconds' FROM crm.candidate WHERE id = 7", as => 'ann');
note(sprintf 'from an edit at Mailchimp to the row of the CRM: %.2f s', Time::HiRes::time() - $begin);
cmp_ok(Time::HiRes::time() - $begin, '<', 300, 'an edit, in both directions, is in the row of the CRM');

# ---- and no more

my $before = () = at_mailchimp();
register('people');
is(() = at_mailchimp(), $before - 1, 'null removes it');
is($crm->rita('SELECT webhook_url IS NULL FROM mc_audience'), 't', 'here, too');
$crm->ann('SELECT mc_stop_worker()');
like($node->error("SELECT mc_register_webhook('people', NULL)", as => 'ann'), qr/55000: audience "people" has no webhook/, 'once');
register('people', $url);
like(($node->psql('postgres', "SELECT mc_drop_audience('people')", extra_params => [ '-U', 'ann' ]))[2],
	qr{NOTICE:  the webhook of audience "people" stays at Mailchimp: \Q$url\E\n}, 'who drops the audience is told what stays');

done_testing();
