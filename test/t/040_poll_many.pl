# Many campaigns are polled beside one that is being sent, which they do not delay (R49, N10). When each of them is due is in
# sql/poll_tiers.sql, that it is found by an index in sql/poll_many.sql.

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $many = 12;
my $crm = McCrm->start('main', candidates => 20, audience => ", read_every => '10 years', every => '10 years'");
my ($node, $sim) = @$crm{qw(node sim)};
$sim->post('/_sim/config', { count_seconds => 0, count_looks => 0 });
$crm->sync;

sub draft
{
	my ($name, $key) = @_;
	my $id = $crm->max("SELECT mc_create_campaign('$name', 'people', 'Newsletter', 'Max', 'max\@example.org')");
	$crm->max("SELECT mc_add_recipients($id, 'candidate', '{$key}')");
	return $id;
}

my %remote;		# id => its id at Mailchimp
my @old = map { draft("Old $_", $_) } 1 .. $many;
$crm->max("SELECT mc_send_campaign(c) FROM unnest('{" . join(',', @old) . "}'::bigint[]) c");
$crm->run;
%remote = split /[|\n]/, $crm->rita("SELECT campaign_id, mailchimp_id FROM mc_campaign WHERE status = 'sent'");
is(scalar keys %remote, $many, "$many campaigns are sent");
$crm->journal;

sub begin_run
{
	my $session = $node->session(as => 'max');
	McTest::begin($session, 'CALL mc_run();');
	return $session;
}

sub end_run { my ($session) = @_; $session->query(''); $session->quit }
sub held { return @{ $sim->get('/_sim/holds')->{held} } }
sub wait_sent { my ($id) = @_; $node->wait_until("SELECT status = 'sent' FROM mc_campaign WHERE campaign_id = $id") }

# Which campaigns were asked for their report, in order of their ids, from what the journal has since the last look.
sub asked { return join ' ', map { $_->{path} =~ m{^/reports/(\w+)$} ? $1 : () } sort { $a->{path} cmp $b->{path} } @_ }
sub all { return join ' ', sort @_ }

# -----------------------------------------------------------------------------------------------------------------
# Polls that are under way leave room for a campaign, and for its contacts
# -----------------------------------------------------------------------------------------------------------------

$crm->later(601);
$sim->hold(path => '^/reports/', times => -1, when => 'before');
my $session = begin_run();
my $urgent = draft('Urgent', 20);
$sim->wait_held(4);
$crm->ann("UPDATE crm.candidate SET first_name = 'New' WHERE id = 20");
$crm->max("SELECT mc_send_campaign($urgent)");
wait_sent($urgent);
is($crm->member('c20@crm.test')->{merge_fields}{FNAME}, 'New', 'a campaign is sent, its contact brought up to date, while none of the polls has an answer');
is(scalar(grep { $_->{path} =~ m{^/reports/} } held()), 4, 'four of them at a time, of six slots');
$sim->release;
end_run($session);
is(asked($crm->journal), all(values %remote, $crm->rita("SELECT mailchimp_id FROM mc_campaign WHERE campaign_id = $urgent")), 'each is polled once');

# -----------------------------------------------------------------------------------------------------------------
# While a campaign is on its way there is one poll at a time
# -----------------------------------------------------------------------------------------------------------------

my $next = draft('Next', 19);
$crm->later(601);
$crm->max("SELECT mc_send_campaign($next)");
my $content = $sim->hold(path => '/content$', when => 'before');
$sim->hold(path => '/actions/send$', when => 'before');
$sim->hold(path => '^/reports/', times => -1, when => 'before');
$session = begin_run();
$sim->wait_held(2);
$sim->release(hold => $content);
McTest::poll('the sending', sub { grep { $_->{path} =~ m{/actions/send$} } held() });
is(join(' ', sort map { $_->{path} =~ m{^/reports/} ? 'report' : 'send' } held()), 'report send', 'one poll beside a campaign that is being sent');
$sim->release;
end_run($session);
wait_sent($next);
is(scalar(grep { $_->{route} eq 'GET /reports/{campaign_id}' } $crm->journal), $many + 2, 'then the others');

$node->stop;
done_testing();
