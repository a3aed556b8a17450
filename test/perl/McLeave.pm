# Many contacts of McCrm that leave at once, with a worker at work.
#
#   my $many = McLeave->start('main', candidates => 1120);
#   $many->leave('id <= 510');  $many->back('id <= 510');    # active = false, true
#   $many->quiet(1);           # until so many batches are under way and nothing else is to be done
#   $many->wait_until('SELECT ...');
#   $many->finish;             # lets the batches end, and waits until all is done
#   $many->one_by_one('DELETE', 'id <= 510');  # they leave and come back when the first such requests are under way
#   $many->work;               # what mc_request has since the last call: 'batch GET 2, batch POST 1, leave DELETE 3'
#   $many->count('archived', 'id <= 510');                   # how many of them have that status at Mailchimp
#   $many->posted;             # how many operations each batch had since the last call
#   $many->in_step('a name');  # four tests: everybody is where the table wants them
#   $many->{crm}

package McLeave;

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

sub start
{
	my ($class, $name, %options) = @_;
	my $databases = $options{databases} // 'postgres';
	my $crm = McCrm->start($name, %options, conf => "mailchimp_sync.databases = '$databases'\n");
	my $self = bless { crm => $crm, node => $crm->{node}, sim => $crm->{sim}, posted => 0 }, $class;
	$crm->max("SELECT mc_sync_audience('people')");
	$self->{node}->wait_until("SELECT in_sync = $options{candidates} FROM mc_audience_status");
	$self->quiet(0);
	$self->work;
	return $self;
}

sub leave { my ($self, $who) = @_; $self->{crm}->ann("UPDATE crm.candidate SET active = false WHERE $who") }
sub back { my ($self, $who) = @_; $self->{crm}->ann("UPDATE crm.candidate SET active = true WHERE $who") }

# As that of a node. What the guard holds when all that changed has been looked at is approved meanwhile.
sub wait_until
{
	my ($self, $sql) = @_;
	McTest::poll($sql, sub {
		my ($looked, $held, $seen) = split /\|/, $self->{node}->query("SELECT NOT EXISTS (SELECT FROM mailchimp_sync.event),
			EXISTS (SELECT FROM mc_audience WHERE state = 'guard_stopped'), ($sql)");
		$self->{crm}->ann("SELECT mc_approve('people')") if $looked eq 't' && $held eq 't';
		return ($seen // '') eq 't';
	});
}

# Addresses of a batch wait until it is over, those of a ghost until that is.
sub quiet
{
	my ($self, $batches) = @_;
	$batches //= 'count(*)';
	$self->wait_until("SELECT (SELECT count(*) = $batches AND coalesce(bool_and(phase = 'look'), true) FROM mailchimp_sync.batch)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.event)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight WHERE doubt_at IS NULL)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.opt_out WHERE carried_at IS NULL)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.contact c WHERE c.action IS NOT NULL
			AND c.email_hash NOT IN (SELECT email_hash FROM mailchimp_sync.busy)
			AND coalesce(c.member_hash, '') NOT IN (SELECT email_hash FROM mailchimp_sync.busy))");
}

# The first look comes after 5 s, the others in 60 s at most.
sub finish
{
	my ($self) = @_;
	$self->config(batch_until => 'finished');
	$self->quiet;
	$self->{crm}->later(60);
	$self->quiet(0);
}

sub one_by_one
{
	my ($self, $method, $who) = @_;
	$self->{sim}->hold(method => $method, path => '/members/', when => 'before', times => -1);
	$self->leave($who);
	$self->wait_until("SELECT EXISTS (SELECT FROM mailchimp_sync.inflight WHERE kind = 'leave')");
	$self->back('true');
	$self->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.event)');
	$self->{sim}->release;
	$self->quiet(0);
}

# Reading statuses and what campaigns do go on beside it all.
sub work
{
	my ($self) = @_;
	my $since = $self->{since} // 0;
	$self->{since} = $self->{node}->query('SELECT coalesce(max(request_id), 0) FROM mailchimp_sync.request');
	return $self->{node}->query("SELECT coalesce(string_agg(work || ' ' || method || ' ' || n, ', ' ORDER BY work, method), '')
		FROM (SELECT kind AS work, method, count(*) AS n FROM mailchimp_sync.request
			WHERE request_id > $since AND request_id <= $self->{since} AND kind NOT IN ('read', 'poll', 'campaign') GROUP BY 1, 2) r");
}

sub count
{
	my ($self, $status, $who) = @_;
	my %members = $self->{crm}->members;
	return scalar grep { ($members{$_}{status} // '') eq $status }
	  split /\n/, $self->{crm}->ann("SELECT email FROM crm.candidate WHERE $who");
}

sub posted
{
	my ($self) = @_;
	my @batches = @{ $self->{sim}->get('/_sim/batches')->{batches} };
	my $last = $self->{posted};
	$self->{posted} = @batches;
	return join ' ', map { scalar @{ $_->{operations} } } @batches[$last .. $#batches];
}

# Who is to be out is, and everybody else is in; then all are in again.
sub in_step
{
	my ($self, $how) = @_;
	my $crm = $self->{crm};
	is($self->count('archived', 'NOT active'), $crm->ann('SELECT count(*) FROM crm.candidate WHERE NOT active'), "$how: who left is archived");
	is($self->count('subscribed', 'active'), $crm->ann('SELECT count(*) FROM crm.candidate WHERE active'), "$how: all others are subscribed");
	is($crm->rita("SELECT count(*) FROM mc_contact_state WHERE state NOT IN ('in_sync', 'outside')"), 0, "$how: and that is known");
	is($crm->rita('SELECT count(*) FROM mc_failure'), 0, "$how: nothing has failed");
	$self->back('true');
	$self->quiet(0);
	$self->work;
	$self->posted;
}

# The batches that there are, by state, deleted ones in brackets.
sub states { return join ' ', map { $_->{deleted} ? "($_->{status})" : $_->{status} } @{ $_[0]{sim}->get('/_sim/batches')->{batches} } }

sub config { my ($self, %settings) = @_; $self->{sim}->post('/_sim/config', \%settings) }

1;
